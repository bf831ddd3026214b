//! One line of a container's log file, as containerd, CRI-O or docker write it. Pure, total, and nothing is copied.

use std::borrow::Cow;

use serde::Deserialize;

use crate::timestamp;

/// Where a container wrote a line to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// `stdout`.
    Stdout,
    /// `stderr`.
    Stderr,
}

/// One line of a file, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When the runtime took it, in nanoseconds since 1970.
    pub time: u64,
    /// Where the container wrote it to.
    pub stream: Stream,
    /// The rest of the container's line comes in a later one.
    pub partial: bool,
    /// What the container wrote.
    pub content: Cow<'a, [u8]>,
}

impl Stream {
    /// The value of `log.iostream`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The parts of a line; `None` for one that is neither a CRI line nor one of docker's.
///
/// A CRI line is `TIME STREAM TAG[:TAG…] CONTENT`, where the first tag is `P` or `F`. The formats are those of the kubelet's
/// own reader (`pkg/kubelet/kuberuntime/logs`).
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    if line.first() == Some(&b'{') {
        return docker(line);
    }
    let space = memchr::memchr(b' ', line.get(..40).unwrap_or(line))?;
    let (time, rest) = line.split_at_checked(space)?;
    let (stream, rest) = match rest {
        [b' ', b's', b't', b'd', b'o', b'u', b't', b' ', rest @ ..] => (Stream::Stdout, rest),
        [b' ', b's', b't', b'd', b'e', b'r', b'r', b' ', rest @ ..] => (Stream::Stderr, rest),
        _ => return None,
    };
    let (partial, content) = match rest {
        [tag @ (b'F' | b'P'), b' ', content @ ..] => (*tag == b'P', content),
        [tag @ (b'F' | b'P'), b':', rest @ ..] => {
            let end = memchr::memchr(b' ', rest).map_or(rest.len(), |space| space + 1);
            (*tag == b'P', rest.get(end..)?)
        }
        [tag @ (b'F' | b'P')] => (*tag == b'P', &[][..]),
        _ => return None,
    };
    Some(Line {
        time: timestamp::unix_ns(time)?,
        stream,
        partial,
        content: Cow::Borrowed(content),
    })
}

#[derive(Deserialize)]
struct Docker<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// `{"log":"…\n","stream":"stdout","time":"…"}`; without a newline at its end `log` is one part of several.
fn docker(line: &[u8]) -> Option<Line<'_>> {
    let Docker { log, stream, time } = serde_json::from_slice(line).ok()?;
    let stream = match &*stream {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = !log.ends_with('\n');
    let content = match log {
        Cow::Borrowed(log) => Cow::Borrowed(log.strip_suffix('\n').unwrap_or(log).as_bytes()),
        Cow::Owned(mut log) => {
            log.truncate(log.len() - usize::from(!partial));
            Cow::Owned(log.into_bytes())
        }
    };
    Some(Line {
        time: timestamp::unix_ns(time.as_bytes())?,
        stream,
        partial,
        content,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(line: &[u8], expect: Expect) {
        let shown = parse(line).map_or("no such line".to_owned(), |line| {
            let tag = if line.partial { "P" } else { "F" };
            format!(
                "{} {} {tag} [{}]",
                line.time,
                line.stream.as_str(),
                line.content.escape_ascii()
            )
        });
        expect.assert_eq(&shown);
    }

    #[test]
    fn cri() {
        check(
            b"2016-10-06T00:17:09.669794202Z stdout F hello  world",
            expect!["1475713029669794202 stdout F [hello  world]"],
        );
        check(
            b"2016-10-06T00:17:09.669794202Z stderr P part",
            expect!["1475713029669794202 stderr P [part]"],
        );
        check(
            b"2016-10-06T00:17:09Z stdout P:more:F part",
            expect!["1475713029000000000 stdout P [part]"],
        );
        check(
            b"2016-10-06T00:17:09Z stdout F:x",
            expect!["1475713029000000000 stdout F []"],
        );
        check(
            b"2016-10-06T00:17:09Z stdout F ",
            expect!["1475713029000000000 stdout F []"],
        );
        check(
            b"2016-10-06T00:17:09Z stdout F",
            expect!["1475713029000000000 stdout F []"],
        );
        check(
            b"2016-10-06T00:17:09Z stdout F \0\xff\r",
            expect![[r"1475713029000000000 stdout F [\x00\xff\r]"]],
        );
        check(
            b"2016-10-06T00:17:09Z stdout F 2016-10-06T00:17:09Z stderr F x",
            expect!["1475713029000000000 stdout F [2016-10-06T00:17:09Z stderr F x]"],
        );
    }

    #[test]
    fn docker_lines() {
        check(
            br#"{"log":"hello\n","stream":"stdout","time":"2016-10-06T00:17:09.5Z"}"#,
            expect!["1475713029500000000 stdout F [hello]"],
        );
        check(
            br#"{"log":"he","stream":"stderr","time":"2016-10-06T00:17:09.5Z","attrs":{"a":"b"}}"#,
            expect!["1475713029500000000 stderr P [he]"],
        );
        check(
            br#"{"log":"a\tb","stream":"stdout","time":"2016-10-06T00:17:09Z"}"#,
            expect![[r"1475713029000000000 stdout P [a\tb]"]],
        );
        check(
            br#"{"log":"hello\n","stream":"other","time":"2016-10-06T00:17:09.5Z"}"#,
            expect!["no such line"],
        );
        check(br#"{"log":"hello\n""#, expect!["no such line"]);
    }

    #[test]
    fn neither() {
        for line in [
            b"".as_slice(),
            b" ",
            b"hello",
            b"2016-10-06T00:17:09Z",
            b"2016-10-06T00:17:09Z stdout",
            b"2016-10-06T00:17:09Z stdout ",
            b"2016-10-06T00:17:09Z stdout X x",
            b"2016-10-06T00:17:09Z stdin F x",
            b"yesterday stdout F x",
            b"9999-10-06T00:17:09Z stdout F x",
            b"2016-10-06T00:17:09Z stdout FF x",
        ] {
            assert_eq!(parse(line), None, "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_a_runtime_writes_comes_back(
            content in proptest::collection::vec(any::<u8>(), 0..200), partial: bool, stdout: bool,
        ) {
            let stream = if stdout { Stream::Stdout } else { Stream::Stderr };
            let tag = if partial { "P" } else { "F" };
            let mut line = format!("2016-10-06T00:17:09.669794202Z {} {tag} ", stream.as_str()).into_bytes();
            line.extend(&content);
            let parsed = parse(&line).unwrap();
            prop_assert_eq!(parsed, Line { time: 1_475_713_029_669_794_202, stream, partial, content: content.into() });
        }
    }
}
