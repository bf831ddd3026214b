//! What goes wrong with a watch, in words: the verb, the resource, and what to do.

use std::time::{Duration, Instant};

/// A server that restarts and connections that a load balancer cuts are no news for this long.
pub(super) const OUTAGE_GRACE: Duration = Duration::from_secs(5);

/// What ended a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server forgot that far back.
    Gone,
    /// The server ended the watch, as it does now and then.
    Ended,
    /// The same, before anything came.
    EndedAtOnce,
    /// Nothing came for this long.
    Silent(Duration),
    /// The list was not complete after this long.
    Slow(Duration),
    /// The answer broke off, or is none.
    Malformed(String),
    /// The server answered with an error.
    Status {
        /// HTTP's.
        code: u16,
        /// The server's text.
        message: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server could not be asked.
    Transport(String),
}

impl Failure {
    /// The server has no such resource.
    pub(super) fn is_absent(&self) -> bool {
        self.code() == Some(404)
    }

    pub(super) fn is_unauthorized(&self) -> bool {
        self.code() == Some(401)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Gone
            | Self::Ended
            | Self::EndedAtOnce
            | Self::Silent(_)
            | Self::Slow(_)
            | Self::Malformed(_)
            | Self::Transport(_) => None,
        }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Gone
            | Self::Ended
            | Self::EndedAtOnce
            | Self::Silent(_)
            | Self::Slow(_)
            | Self::Malformed(_)
            | Self::Transport(_) => None,
        }
    }
}

/// How one watch is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) text: String,
    pub(super) since: Instant,
    /// Time alone will not mend it.
    pub(super) permanent: bool,
    /// The server has no such resource.
    pub(super) absent: bool,
}

impl Trouble {
    /// What a failure means. `None` for what mends itself at once.
    pub(super) fn of(verb: &str, resource: &str, failure: &Failure, now: Instant) -> Option<Self> {
        let text = match failure {
            Failure::Gone | Failure::Ended => return None,
            Failure::EndedAtOnce => "the server ends it at once".to_owned(),
            Failure::Silent(idle) => format!("nothing came for {} s", idle.as_secs()),
            Failure::Slow(limit) => format!("not complete after {} s", limit.as_secs()),
            Failure::Malformed(text) | Failure::Transport(text) => text.clone(),
            Failure::Status {
                code: 401, message, ..
            } => format!("credentials refused (401 {message})"),
            Failure::Status {
                code: 403, message, ..
            } => {
                let fix =
                    "bind the ClusterRole of deploy/kustomize/base to the agent's service account";
                return Some(Self {
                    text: format!("may not {verb} {resource}: {fix} (403 {message})"),
                    since: now,
                    permanent: true,
                    absent: false,
                });
            }
            Failure::Status {
                code: 404, message, ..
            } => format!("not served here (404 {message})"),
            Failure::Status { code, message, .. } => format!("{code} {message}"),
        };
        Some(Self {
            text: format!("cannot {verb} {resource}: {text}"),
            since: now,
            permanent: matches!(failure.code(), Some(401 | 404)),
            absent: failure.is_absent(),
        })
    }

    /// Whether it is time to tell of it.
    pub(super) fn is_news(&self, now: Instant) -> bool {
        self.permanent || now >= self.since + OUTAGE_GRACE
    }
}

/// An error with its causes: hyper's own text is only "client error (Connect)".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
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

    use super::{Failure, OUTAGE_GRACE, Trouble};
    use crate::clock;

    fn status(code: u16) -> Failure {
        Failure::Status {
            code,
            message: "text".into(),
            retry_after: None,
        }
    }

    #[test]
    fn failures_name_verb_resource_and_fix() {
        let idle = Failure::Silent(Duration::from_secs(240));
        for (verb, failure, expected) in [
            (
                "list",
                status(403),
                "true may not list pods: bind the ClusterRole of deploy/kustomize/base to the agent's service account (403 text)",
            ),
            (
                "watch",
                status(404),
                "true cannot watch pods: not served here (404 text)",
            ),
            (
                "watch",
                status(401),
                "true cannot watch pods: credentials refused (401 text)",
            ),
            ("list", status(500), "false cannot list pods: 500 text"),
            (
                "watch",
                idle,
                "false cannot watch pods: nothing came for 240 s",
            ),
            (
                "list",
                Failure::Malformed("the list broke off".into()),
                "false cannot list pods: the list broke off",
            ),
            ("watch", Failure::Gone, ""),
            ("watch", Failure::Ended, ""),
        ] {
            let trouble = Trouble::of(verb, "pods", &failure, clock::instant());
            let said = trouble.map(|trouble| format!("{} {}", trouble.permanent, trouble.text));
            assert_eq!(said.unwrap_or_default(), expected);
        }
    }

    #[test]
    fn an_outage_is_told_after_a_while_and_a_missing_right_at_once() {
        let now = clock::instant();
        let outage = Trouble::of("watch", "pods", &status(500), now).unwrap();
        assert!(!outage.is_news(now) && outage.is_news(now + OUTAGE_GRACE));
        assert!(
            Trouble::of("watch", "pods", &status(403), now)
                .unwrap()
                .is_news(now)
        );
    }
}
