//! What to do about a collector's answer, by the OTLP specification. Pure.

use std::num::IntErrorKind;
use std::time::Duration;

use tonic::Code;

/// The longest wait that a collector may ask for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Bytes of a collector's text that are kept.
const MESSAGE_BYTES_MAX: usize = 256;

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Accepted, but for so many items.
    Accepted { rejected: i64, message: String },
    /// An HTTP answer other than 2xx.
    Http {
        status: u16,
        retry_after: Option<Duration>,
        message: String,
    },
    /// A status that the gRPC server itself sent.
    Grpc {
        code: Code,
        retry_info: Option<Duration>,
        message: String,
    },
    /// No answer: connection, TLS or protocol failed. In the client's code this may look like status UNKNOWN.
    Transport(String),
    /// No answer in time.
    Deadline(Duration),
    /// The answer is longer than any that is due.
    TooLong,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done; so many items were turned away for good.
    Accepted { rejected: u64 },
    /// Send it again, after the collector's own time if it gave one.
    Retry { after: Option<Duration> },
    /// Send it again without compression.
    Uncompressed,
    /// Send it in two halves.
    Split,
    /// It is lost, for this reason; the next may fare better.
    Drop(&'static str),
    /// It is lost, and so will the next be until a person mends something.
    Refused(&'static str),
}

/// What is known when deciding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// Items sent.
    pub(crate) items: u64,
    /// Compressed, and this collector has never yet accepted that.
    pub(crate) gzip_unproven: bool,
}

pub(crate) fn decide(reply: &Reply, attempt: Attempt) -> Verdict {
    match reply {
        Reply::Accepted { rejected, .. } => Verdict::Accepted {
            rejected: u64::try_from(*rejected).unwrap_or(0).min(attempt.items),
        },
        Reply::Http {
            status,
            retry_after,
            ..
        } => decide_http(*status, *retry_after, attempt),
        Reply::Grpc {
            code, retry_info, ..
        } => decide_grpc(*code, *retry_info, attempt),
        Reply::Transport(_) | Reply::Deadline(_) => Verdict::Retry { after: None },
        Reply::TooLong => Verdict::Drop("response_too_long"),
    }
}

fn decide_http(status: u16, retry_after: Option<Duration>, attempt: Attempt) -> Verdict {
    match status {
        400 | 415 if attempt.gzip_unproven => Verdict::Uncompressed,
        429 | 502 | 503 | 504 => Verdict::Retry { after: retry_after },
        413 => Verdict::Split,
        300..=399 => Verdict::Refused("redirect"),
        401 | 403 | 407 => Verdict::Refused("unauthorized"),
        404 | 405 => Verdict::Refused("not_found"),
        500..=599 => Verdict::Drop("server_error"),
        _ => Verdict::Drop("bad_request"),
    }
}

fn decide_grpc(code: Code, retry_info: Option<Duration>, attempt: Attempt) -> Verdict {
    match code {
        Code::Ok => Verdict::Accepted { rejected: 0 },
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry { after: retry_info },
        // With RetryInfo the collector can recover; without, the request is too large for it.
        Code::ResourceExhausted if retry_info.is_some() => Verdict::Retry { after: retry_info },
        Code::ResourceExhausted => Verdict::Split,
        Code::Unimplemented if attempt.gzip_unproven => Verdict::Uncompressed,
        Code::Unimplemented | Code::NotFound => Verdict::Refused("not_found"),
        Code::Unauthenticated | Code::PermissionDenied => Verdict::Refused("unauthorized"),
        Code::Internal | Code::Unknown => Verdict::Drop("server_error"),
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => {
            Verdict::Drop("bad_request")
        }
    }
}

impl Reply {
    /// Too slow, by our own clock or by the collector's, which is told of our deadline: less might have passed in time.
    pub(crate) fn is_late(&self) -> bool {
        let code = Code::DeadlineExceeded;
        matches!(self, Self::Deadline(_))
            || matches!(self, Self::Grpc { code: of, .. } if *of == code)
    }

    /// For a person; what the collector said is cut and its control characters are escaped.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Accepted { rejected, message } => {
                format!("{rejected} rejected: {}", harmless(message))
            }
            Self::Http {
                status, message, ..
            } => with_message(format!("HTTP status {status}"), message),
            Self::Grpc { code, message, .. } => {
                with_message(format!("gRPC status {code:?}"), message)
            }
            Self::Transport(error) => format!("no answer: {}", harmless(error)),
            Self::Deadline(timeout) => format!("no answer within {} ms", timeout.as_millis()),
            Self::TooLong => "the answer is longer than 4 MiB".to_owned(),
        }
    }
}

fn with_message(what: String, message: &str) -> String {
    if message.is_empty() {
        what
    } else {
        format!("{what}: {}", harmless(message))
    }
}

fn harmless(message: &str) -> String {
    let cut = &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)];
    cut.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// `Retry-After`: seconds, or an HTTP date. Garbage, the past and negative numbers count as absent.
pub(crate) fn retry_after(header: &str, now_unix: Duration) -> Option<Duration> {
    let header = header.trim();
    let wait = match header.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than the number holds.
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => RETRY_AFTER_MAX,
        Err(_not_a_number) => {
            let at = httpdate::parse_http_date(header).ok()?;
            at.duration_since(std::time::UNIX_EPOCH)
                .ok()?
                .checked_sub(now_unix)?
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// How long to wait before attempt number `failures` + 1: full jitter below a bound that doubles from 1 s to 30 s, added
/// to what the collector asked for, since that is the earliest it wants to hear from us.
pub(crate) fn backoff(failures: u32, asked: Option<Duration>, random: u64) -> Duration {
    let bound = BACKOFF_FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(5))
        .min(BACKOFF_MAX);
    let bound_ms = if asked.is_some() {
        BACKOFF_FIRST.as_millis()
    } else {
        bound.as_millis()
    };
    let jitter = u128::from(random).wrapping_rem(bound_ms + 1);
    asked.unwrap_or_default().min(RETRY_AFTER_MAX)
        + Duration::from_millis(u64::try_from(jitter).unwrap_or(0))
}

#[cfg(test)]
mod tests;
