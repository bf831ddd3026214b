//! How bad a record says it is, from its first bytes: opt-in, bounded, and a guess. Pure and total.

/// As OTLP numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Severity {
    /// Finer than debugging.
    Trace = 1,
    /// For whoever looks for a fault.
    Debug = 5,
    /// What usually happens.
    Info = 9,
    /// What should be looked at.
    Warn = 13,
    /// What failed.
    Error = 17,
    /// What ended the program.
    Fatal = 21,
}

/// Bytes of a record that are looked at.
const LOOKED_AT: usize = 512;
/// Bytes in which a bare word counts: further on it is part of what is said.
const BARE: usize = 96;
/// Keys of structured lines.
const KEYS: [&[u8]; 5] = [b"level", b"severity", b"lvl", b"loglevel", b"log.level"];

impl Severity {
    /// As it is written in `severity_text`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// As OTLP numbers it.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// From a word in any case, or one of pino's numbers.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        const WORDS: [(&[u8], Severity); 23] = [
            (b"trace", Severity::Trace),
            (b"10", Severity::Trace),
            (b"debug", Severity::Debug),
            (b"dbg", Severity::Debug),
            (b"20", Severity::Debug),
            (b"info", Severity::Info),
            (b"information", Severity::Info),
            (b"notice", Severity::Info),
            (b"30", Severity::Info),
            (b"warn", Severity::Warn),
            (b"warning", Severity::Warn),
            (b"40", Severity::Warn),
            (b"error", Severity::Error),
            (b"err", Severity::Error),
            (b"severe", Severity::Error),
            (b"50", Severity::Error),
            (b"fatal", Severity::Fatal),
            (b"critical", Severity::Fatal),
            (b"crit", Severity::Fatal),
            (b"panic", Severity::Fatal),
            (b"alert", Severity::Fatal),
            (b"emerg", Severity::Fatal),
            (b"60", Severity::Fatal),
        ];
        let known = WORDS
            .iter()
            .find(|(known, _)| word.eq_ignore_ascii_case(known));
        known.map(|(_, severity)| *severity)
    }
}

/// What a record says of itself; `None` where it says nothing that is known.
#[must_use]
pub fn detect(content: &[u8]) -> Option<Severity> {
    let content = content.get(..LOOKED_AT).unwrap_or(content);
    klog(content)
        .or_else(|| by_key(content))
        .or_else(|| bare_word(content.get(..BARE).unwrap_or(content)))
}

/// `E1126 10:00:00.000000`: klog and glog.
fn klog(content: &[u8]) -> Option<Severity> {
    let [letter, date @ ..] = content.get(..6)? else {
        return None;
    };
    let [digits @ .., b' '] = date else {
        return None;
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    match letter {
        b'I' => Some(Severity::Info),
        b'W' => Some(Severity::Warn),
        b'E' => Some(Severity::Error),
        b'F' => Some(Severity::Fatal),
        _ => None,
    }
}

/// `"level":"warn"` of JSON, `level=warn` of logfmt.
fn by_key(content: &[u8]) -> Option<Severity> {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b':', b'=', content.get(at..)?) {
        let (before, after) = (content.get(..at + found)?, content.get(at + found + 1..)?);
        let key = last_word(before.trim_ascii_end());
        if KEYS.iter().any(|known| key.eq_ignore_ascii_case(known)) {
            let value = after.trim_ascii_start();
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric());
            if let Some(severity) = Severity::parse(value.get(..end.unwrap_or(value.len()))?) {
                return Some(severity);
            }
        }
        at += found + 1;
    }
    None
}

/// The key that ends here, without its quotes.
fn last_word(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\"").unwrap_or(text);
    let is_key = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'.';
    let begin = text
        .iter()
        .rposition(|byte| !is_key(byte))
        .map_or(0, |at| at + 1);
    text.get(begin..).unwrap_or_default()
}

/// `2026-11-25 10:00:00 WARN …`, `[error] …`: the first word that is one, in capitals or in brackets.
fn bare_word(content: &[u8]) -> Option<Severity> {
    let mut rest = content;
    while let Some(begin) = rest.iter().position(u8::is_ascii_alphabetic) {
        let bracket = begin > 0 && matches!(rest.get(begin - 1), Some(b'[' | b'<' | b'('));
        let word = rest.get(begin..)?;
        let end = word.iter().position(|byte| !byte.is_ascii_alphanumeric());
        let (word, after) = word.split_at(end.unwrap_or(word.len()));
        if (bracket || word.iter().all(u8::is_ascii_uppercase))
            && let Some(severity) = Severity::parse(word)
        {
            return Some(severity);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_write() {
        for (content, want) in [
            (
                &b"E1126 10:00:00.000000       1 main.go:1] failed"[..],
                Some(Severity::Error),
            ),
            (b"I1126 10:00:00.000000", Some(Severity::Info)),
            (b"X1126 10:00:00", None),
            (
                br#"{"ts":1,"level":"warn","msg":"x"}"#,
                Some(Severity::Warn),
            ),
            (br#"{"severity" : "CRITICAL"}"#, Some(Severity::Fatal)),
            (br#"{"level":30,"time":1}"#, Some(Severity::Info)),
            (br#"{"msg":"level: error"}"#, Some(Severity::Error)),
            (b"time=x level=debug msg=y", Some(Severity::Debug)),
            (
                b"2026-11-25 10:00:00,123 WARNING [main] x",
                Some(Severity::Warn),
            ),
            (b"[error] 1#1: *2 open() failed", Some(Severity::Error)),
            (b"GET /error HTTP/1.1", None),
            (b"no error at all", None),
            (b"", None),
            (b"level=", None),
        ] {
            assert_eq!(detect(content), want, "{}", content.escape_ascii());
        }
        let far = [&[b' '; LOOKED_AT][..], b"level=error"].concat();
        assert_eq!(detect(&far), None);
    }

    #[test]
    fn words_come_back() {
        for severity in [
            Severity::Trace,
            Severity::Debug,
            Severity::Info,
            Severity::Warn,
            Severity::Error,
            Severity::Fatal,
        ] {
            assert_eq!(
                Severity::parse(severity.as_str().as_bytes()),
                Some(severity)
            );
        }
    }
}
