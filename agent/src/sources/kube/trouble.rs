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
