//! Everything that reads bytes from outside, driven by mutations of a corpus: 20,000 runs each for every change, 1,000,000 in
//! the thorough tier. On stable Rust; a failure prints its input, which then belongs into `corpus/`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::batch::SourceId;
use crate::file::{Gzip, Handle, LogFile, Stamp, gzip_head, plain_head};
use crate::line::{self, Line, Stream};
use crate::offsets::{FileId, Place};
use crate::partial::{Merger, Room};
use crate::source::{Age, LogName, PodName, container_name};
use crate::tailer::tests::{Random, full, seed};
use crate::{checkpoint, otlp, timestamp};

/// Parts that inputs are made of.
const WORDS: [&[u8]; 16] = [
    b"stdout",
    b"stderr",
    b" F ",
    b" P ",
    b":",
    b"\n",
    b"_",
    b".log",
    b".gz",
    b"{\"log\":\"",
    b"\\n\"",
    b"Z",
    b"+00:00",
    b"..",
    b"\xff\xfe",
    b"plumbline-log-checkpoint 1 ",
];

fn drive(target: &str, run: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        corpus.push(std::fs::read(entry.unwrap().path()).unwrap());
    }
    corpus.sort();
    assert!(!corpus.is_empty());
    let once = |input: &[u8]| {
        let ran = catch_unwind(AssertUnwindSafe(|| run(input)));
        assert!(ran.is_ok(), "{target}: {}", input.escape_ascii());
    };
    corpus.iter().for_each(|input| once(input));
    let mut random = Random::new(seed());
    for _ in 0..if full() { 1_000_000 } else { 20_000 } {
        once(&mutated(&corpus, &mut random));
    }
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick =
        |random: &mut Random, len: usize| usize::try_from(random.below(len.max(1) as u64)).unwrap();
    let mut input = corpus[pick(random, corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = pick(random, input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap(),
            2 => drop(input.drain(at..(at + pick(random, 8)).min(input.len()))),
            3 => input.truncate(at),
            4 => drop(
                input
                    .splice(at..at, WORDS[pick(random, WORDS.len())].iter().copied())
                    .collect::<Vec<_>>(),
            ),
            5 => {
                let other = &corpus[pick(random, corpus.len())];
                let from = pick(random, other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.insert(at, u8::try_from(random.below(256)).unwrap()),
        }
    }
    input
}

#[test]
fn lines() {
    drive("line", |input| {
        if let Some(line) = line::parse(input) {
            assert!(line.content.len() <= input.len());
        }
        let _time: Option<u64> = timestamp::unix_ns(input);
        if let Some(count) = otlp::count(input) {
            assert_eq!(otlp::after(input, count), Some(input.len()));
        }
    });
}

#[test]
fn names() {
    drive("names", |input| {
        if let Some(pod) = PodName::parse(input) {
            assert_eq!(pod.directory().as_bytes(), input);
        }
        if let Some(name) = container_name(input) {
            assert!(!name.contains('/') && !name.starts_with('.'));
        }
        if let Some(log) = LogName::parse(input) {
            assert_eq!(log.file_name().as_bytes(), input);
        }
    });
}

#[test]
fn checkpoints() {
    drive("checkpoint", |input| {
        if let Ok(entries) = checkpoint::decode(input) {
            assert!(entries.iter().all(|entry| entry.source().is_some()));
            assert_eq!(
                checkpoint::decode(&checkpoint::encode(&entries)),
                Ok(entries)
            );
        }
    });
}

#[test]
fn compressed_files() {
    drive("gzip", |input| {
        let fd = rustix::fs::memfd_create("gzip", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&fd, input, 0).unwrap();
        let _heads = (gzip_head(&fd), plain_head(&fd));
        let stamp = Stamp::of(&rustix::fs::fstat(&fd).unwrap());
        let name = LogName {
            restart: 0,
            age: Age::Live,
            gzip: true,
        };
        let id = FileId {
            source: SourceId(0),
            number: 0,
        };
        let handle = Handle::Gzip(Box::new(Gzip::new(fd, stamp.size)));
        let mut file = LogFile::new(id, name, stamp, handle, Duration::ZERO);
        file.resume(input.len() as u64 % 300);
        let mut buffer = [0; 1_000];
        // A bomb gives more than anyone wants to see: what counts is that each step is bounded.
        for step in 0..400 {
            let (filled, end) = file.fill(&mut buffer).unwrap();
            let used = if end {
                filled
            } else {
                filled.saturating_sub(step % 7)
            };
            file.used(&buffer[..filled], used);
            if end {
                return;
            }
        }
    });
}

#[test]
fn mergers() {
    drive("merger", |input| {
        const CAP: usize = 300;
        const ROOM: usize = 500;
        let (mut merger, mut room) = (Merger::default(), Room::new(ROOM));
        let (mut fed, mut out, mut dropped) = (0, 0, 0);
        for (at, step) in (0..).zip(input.chunks_exact(2)) {
            let (stdout, partial) = (step[0] & 1 == 0, step[0] & 2 == 0);
            let now = Duration::from_secs(at);
            if step[0] & 4 != 0 {
                let before = now.saturating_sub(Duration::from_secs(u64::from(step[1])));
                merger.flush(before, &mut room, |record| out += record.content.len());
                continue;
            }
            let line = Line {
                time: at,
                stream: if stdout {
                    Stream::Stdout
                } else {
                    Stream::Stderr
                },
                partial,
                content: vec![b'x'; usize::from(step[1])].into(),
            };
            let file = FileId {
                source: SourceId(0),
                number: 0,
            };
            let place = Place { file, offset: at };
            fed += line.content.len();
            dropped += merger.push(&line, place, now, CAP, &mut room, |record| {
                assert!(record.content.len() <= CAP);
                out += record.content.len();
            });
        }
        let held = ROOM - room.free();
        assert_eq!(fed, out + usize::try_from(dropped).unwrap() + held);
    });
}
