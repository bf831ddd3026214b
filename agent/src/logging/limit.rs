//! A bound on what the agent logs itself: an error that comes back each millisecond must not fill the node's disk, nor be
//! shipped as the loudest log of all.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plumbline_core::time::Timestamp;
use tracing_subscriber::fmt::MakeWriter;

use crate::clock;

/// Lines a second, in the long run.
const PER_SECOND: u32 = 10;
/// Lines that may come at once: a start has some dozens.
const BURST: u32 = 200;
/// Standard error, which passes lines as long as there are tokens, and then says how many it did not.
#[derive(Debug)]
pub(super) struct Stderr {
    json: bool,
    tokens: Mutex<Tokens>,
}

impl Stderr {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            tokens: Mutex::new(Tokens {
                tokens: BURST,
                filled: clock::monotonic(),
                left_out: 0,
            }),
        }
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Box<dyn Write>;

    fn make_writer(&'a self) -> Self::Writer {
        let fate = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.line(clock::monotonic())
        };
        if fate == Fate::IsLeftOut {
            return Box::new(std::io::sink());
        }
        let mut stderr = std::io::stderr();
        if let Fate::PassesAfter(lines) = fate {
            // Nobody hears that standard error is gone.
            drop(writeln!(stderr, "{}", told(lines, self.json)));
        }
        Box::new(stderr)
    }
}

fn told(lines: u64, json: bool) -> String {
    let message =
        format!("lines were left out of this log: at most {PER_SECOND} a second are written");
    if json {
        format!(r#"{{"level":"WARN","message":"{message}","lines":{lines}}}"#)
    } else {
        format!("WARN {message} lines={lines}")
    }
}

#[derive(Debug)]
struct Tokens {
    tokens: u32,
    filled: Timestamp,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// And so many before it did not.
    PassesAfter(u64),
    IsLeftOut,
}

impl Tokens {
    fn line(&mut self, now: Timestamp) -> Fate {
        let step = Duration::from_secs(1) / PER_SECOND;
        let steps = now.since(self.filled).as_nanos() / step.as_nanos();
        if let Ok(steps @ 1..) = u32::try_from(steps) {
            self.tokens = self.tokens.saturating_add(steps).min(BURST);
            self.filled = self.filled.plus(step.saturating_mul(steps));
        }
        // The line that tells of others is one too.
        let price = if self.left_out > 0 { 2 } else { 1 };
        if self.tokens < price {
            self.left_out += 1;
            return Fate::IsLeftOut;
        }
        self.tokens -= price;
        match std::mem::take(&mut self.left_out) {
            0 => Fate::Passes,
            left_out => Fate::PassesAfter(left_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000_000);

    fn tokens() -> Tokens {
        Tokens {
            tokens: BURST,
            filled: START,
            left_out: 0,
        }
    }

    /// T16: an error storm of ten minutes is at most 6,000 lines, and what was left out is told.
    #[test]
    fn a_storm_of_ten_minutes() {
        let (mut tokens, mut written, mut told) = (tokens(), 0_u32, 0);
        for millis in 0..600_000 {
            match tokens.line(START.plus(Duration::from_millis(millis))) {
                Fate::Passes => written += 1,
                Fate::PassesAfter(lines) => {
                    written += 2;
                    told += lines;
                }
                Fate::IsLeftOut => {}
            }
        }
        assert!((5_000..=6_000 + BURST).contains(&written), "{written}");
        assert!(told > 500_000, "{told}");
    }

    #[test]
    fn what_was_left_out_is_told_in_the_logs_own_form() {
        let json: serde_json::Value = serde_json::from_str(&told(7, true)).unwrap();
        assert_eq!(
            (json["lines"].as_u64(), json["level"].as_str()),
            (Some(7), Some("WARN"))
        );
        assert!(told(7, false).ends_with("lines=7"));
    }

    #[test]
    fn a_few_lines_pass() {
        let mut tokens = tokens();
        for line in 0..u64::from(BURST) {
            assert_eq!(tokens.line(START), Fate::Passes, "{line}");
        }
        assert_eq!(tokens.line(START), Fate::IsLeftOut);
        let later = START.plus(Duration::from_secs(1));
        assert_eq!(tokens.line(later), Fate::PassesAfter(1));
        assert_eq!(tokens.line(later), Fate::Passes);
    }
}
