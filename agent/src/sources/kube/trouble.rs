//! What goes wrong with the watches, in words: the verb, the resource, and what to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kube::runtime::watcher;
use tokio::sync::Notify;

/// A server that restarts and connections that a load balancer cuts are no news for this long.
const OUTAGE_GRACE: Duration = Duration::from_secs(5);

/// How many requests of one watch were answered with success.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<(AtomicU64, Notify)>);

impl Answers {
    /// One more.
    pub(super) fn count(&self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        self.0.1.notify_one();
    }

    fn total(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// The trouble of each watch, until an answer with success ends it.
#[derive(Debug)]
pub(super) struct Troubles<const WATCHES: usize> {
    watches: [(&'static str, Answers, Option<Trouble>); WATCHES],
}

#[derive(Debug)]
struct Trouble {
    text: String,
    since: Instant,
    /// Answers before it.
    answers: u64,
    /// Time alone will not mend it.
    permanent: bool,
}

impl<const WATCHES: usize> Troubles<WATCHES> {
    pub(super) fn new(watches: [(&'static str, Answers); WATCHES]) -> Self {
        Self {
            watches: watches.map(|(resource, answers)| (resource, answers, None)),
        }
    }

    /// Takes in an error of the watch of `resource`.
    pub(super) fn note(&mut self, resource: &str, error: &watcher::Error, now: Instant) {
        let Some((text, permanent)) = described(resource, error) else {
            return;
        };
        for (_, answers, trouble) in self
            .watches
            .iter_mut()
            .filter(|(name, ..)| *name == resource)
        {
            let answers = answers.total();
            let since = trouble
                .as_ref()
                .filter(|former| former.answers == answers)
                .map_or(now, |former| former.since);
            *trouble = Some(Trouble {
                text: text.clone(),
                since,
                answers,
                permanent,
            });
        }
    }

    /// Why the watches are broken, if they are.
    pub(super) fn reason(&self, now: Instant) -> Option<String> {
        let verdicts = self
            .current()
            .filter(|trouble| trouble.permanent || now >= trouble.since + OUTAGE_GRACE);
        let texts: Vec<&str> = verdicts.map(|trouble| trouble.text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// When an outage becomes news.
    pub(super) fn next_verdict(&self, now: Instant) -> Option<Instant> {
        let verdicts = self
            .current()
            .filter(|trouble| !trouble.permanent)
            .map(|trouble| trouble.since + OUTAGE_GRACE);
        verdicts.filter(|verdict| *verdict > now).min()
    }

    /// Completes when any watch was answered.
    pub(super) async fn answered(&self) {
        futures::future::select_all(
            self.watches
                .iter()
                .map(|(_, answers, _)| Box::pin(answers.0.1.notified())),
        )
        .await;
    }

    fn current(&self) -> impl Iterator<Item = &Trouble> {
        self.watches.iter().filter_map(|(_, answers, trouble)| {
            trouble
                .as_ref()
                .filter(|trouble| trouble.answers == answers.total())
        })
    }
}

/// What an error means, and whether time alone will not mend it. `None` for what mends itself at once.
fn described(resource: &str, error: &watcher::Error) -> Option<(String, bool)> {
    let (verb, cause) = match error {
        watcher::Error::InitialListFailed(cause) => ("list", Some(cause)),
        watcher::Error::WatchStartFailed(cause) | watcher::Error::WatchFailed(cause) => {
            ("watch", Some(cause))
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => ("watch", None),
    };
    let status = match (cause, error) {
        (Some(kube::Error::Api(status)), _) => Some(status),
        (_, watcher::Error::WatchError(status)) => Some(status),
        _ => None,
    };
    match status.map(|status| (status.code, &status.message)) {
        // The server forgot that far back; the watcher lists anew.
        Some((410, _)) => None,
        Some((401, message)) => Some((
            format!("cannot {verb} {resource}: credentials refused (401 {message})"),
            true,
        )),
        Some((403, message)) => {
            let fix =
                "bind the ClusterRole of deploy/kustomize/base to the agent's service account";
            Some((
                format!("may not {verb} {resource}: {fix} (403 {message})"),
                true,
            ))
        }
        Some((404, message)) => Some((
            format!("cannot {verb} {resource}: not served here (404 {message})"),
            true,
        )),
        Some((code, message)) => {
            Some((format!("cannot {verb} {resource}: {code} {message}"), false))
        }
        None => {
            let cause = cause.map_or_else(|| error.to_string(), chain);
            Some((format!("cannot {verb} {resource}: {cause}"), false))
        }
    }
}

/// An error with its causes: hyper's own text is only "client error (Connect)".
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use kube::core::Status;
    use kube::runtime::watcher;

    use super::{Answers, OUTAGE_GRACE, Troubles, described};
    use crate::clock;

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("text", "Reason").with_code(code).boxed())
    }

    fn check(error: &watcher::Error, expected: Expect) {
        let text = described("pods", error).map(|(text, permanent)| format!("{permanent} {text}"));
        expected.assert_eq(&text.unwrap_or_default());
    }

    #[test]
    fn errors_name_verb_resource_and_fix() {
        use watcher::Error::{
            InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
        };
        let gone = Status::failure("too old", "Expired").with_code(410).boxed();
        check(
            &InitialListFailed(refused(403)),
            expect![
                "true may not list pods: bind the ClusterRole of deploy/kustomize/base to the agent's service account (403 text)"
            ],
        );
        check(
            &WatchStartFailed(refused(404)),
            expect!["true cannot watch pods: not served here (404 text)"],
        );
        check(
            &WatchStartFailed(refused(401)),
            expect!["true cannot watch pods: credentials refused (401 text)"],
        );
        check(
            &InitialListFailed(refused(500)),
            expect!["false cannot list pods: 500 text"],
        );
        check(
            &WatchFailed(kube::Error::ReadEvents(std::io::Error::other("cut"))),
            expect!["false cannot watch pods: Error reading events stream: cut"],
        );
        check(&WatchError(gone), expect![""]);
        check(
            &NoResourceVersion,
            expect![
                "false cannot watch pods: no metadata.resourceVersion in watch result (does resource support watch?)"
            ],
        );
    }

    #[test]
    fn an_outage_is_told_after_a_while_and_ends_with_an_answer() {
        let (pods, services) = (Answers::default(), Answers::default());
        let mut troubles = Troubles::new([("pods", pods.clone()), ("services", services)]);
        let start = clock::instant();
        let failed = watcher::Error::WatchStartFailed(refused(500));
        troubles.note("pods", &failed, start);
        assert_eq!(
            (troubles.reason(start), troubles.next_verdict(start)),
            (None, Some(start + OUTAGE_GRACE))
        );
        // Further failures do not put the verdict off.
        troubles.note("pods", &failed, start + Duration::from_secs(3));
        let late = start + OUTAGE_GRACE;
        assert_eq!(
            troubles.reason(late),
            Some("cannot watch pods: 500 text".to_owned())
        );
        assert_eq!(troubles.next_verdict(late), None);
        pods.count();
        assert_eq!(
            (troubles.reason(late), troubles.next_verdict(start)),
            (None, None)
        );
        // A new outage has its own while.
        troubles.note("pods", &failed, late);
        assert_eq!(troubles.reason(late), None);
    }

    #[test]
    fn a_missing_right_is_told_at_once() {
        let mut troubles = Troubles::new([
            ("pods", Answers::default()),
            ("services", Answers::default()),
        ]);
        let now = clock::instant();
        for resource in ["pods", "services"] {
            troubles.note(
                resource,
                &watcher::Error::InitialListFailed(refused(404)),
                now,
            );
        }
        let told = "cannot list pods: not served here (404 text); cannot list services: not served here (404 text)";
        assert_eq!(troubles.reason(now).as_deref(), Some(told));
    }
}
