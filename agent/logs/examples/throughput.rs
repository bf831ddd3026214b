//! How fast the reader reads: `throughput generate DIR BYTES LINE` writes CRI files, `throughput read DIR` reads them to a sink
//! that takes everything and prints what it cost, as JSON. Two processes, so that making the files costs the reader nothing.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot go on should say where"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use plumbline_logs::batch::Batch;
use plumbline_logs::otlp::Envelope;
use plumbline_logs::sink::{Answer, Null, Sink};
use plumbline_logs::source::Source;
use plumbline_logs::tailer::{Resources, Settings, spawn};
use plumbline_logs::watch::Waker;

/// Files that the bytes are spread over.
const FILES: u64 = 8;
/// What containerd makes of a longer line.
const PART: u64 = 16 << 10;

struct Paths;

impl Resources for Paths {
    fn generation(&self) -> u64 {
        0
    }

    fn envelope(&self, source: &Source) -> Envelope {
        Envelope::new(b"", &source.directory(), "", "")
    }
}

/// Answers through the reader's bell, as an exporter would.
struct Rung(Null, Waker);

impl Sink for Rung {
    fn send(&mut self, batch: Batch) {
        self.0.send(batch);
        self.1.wake();
    }

    fn answers(&mut self) -> Vec<Answer> {
        self.0.answers()
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["generate", directory, bytes, line] => {
            generate(
                Path::new(directory),
                bytes.parse().unwrap(),
                line.parse().unwrap(),
            );
        }
        ["read", directory] => read(Path::new(directory)),
        _ => println!("throughput generate DIR BYTES LINE | throughput read DIR"),
    }
}

/// `line` is the length of a line in the file, its newline included.
fn generate(directory: &Path, bytes: u64, line: u64) {
    for number in 0..FILES {
        let directory = directory.join(format!("bench_pod-{number}_uid-{number}/app"));
        fs::create_dir_all(&directory).unwrap();
        let mut file = std::io::BufWriter::new(fs::File::create(directory.join("0.log")).unwrap());
        let (mut written, mut seq) = (0, 0_u64);
        while written < bytes / FILES {
            // Of a long line all parts but the last are whole ones.
            let tag = if line > PART && seq % 4 != 3 {
                "P"
            } else {
                "F"
            };
            let (second, ns) = (seq / 1_000_000_000 % 60, seq % 1_000_000_000);
            let head = format!(
                "2026-11-25T10:00:{second:02}.{ns:09}Z stdout {tag} {{\"level\":\"info\",\"seq\":{seq},\"msg\":\""
            );
            let fill = usize::try_from(line.min(PART + 40))
                .unwrap()
                .saturating_sub(head.len() + 3);
            let text = format!(
                "{head}{}\"}}\n",
                "request served ".repeat(fill / 15 + 1).get(..fill).unwrap()
            );
            file.write_all(text.as_bytes()).unwrap();
            written += text.len() as u64;
            seq += 1;
        }
        file.flush().unwrap();
    }
}

fn read(directory: &Path) {
    let settings = Settings {
        linger: Duration::from_millis(200),
        ..Settings::new(directory.to_owned())
    };
    let waker = Waker::new().unwrap();
    let sink = Rung(Null::default(), waker.clone());
    let reader = spawn(settings, Box::new(sink), Box::new(Paths), waker).unwrap();
    let stats = reader.stats();
    let all: u64 = fs::read_dir(directory)
        .unwrap()
        .map(|pod| {
            fs::metadata(pod.unwrap().path().join("app/0.log"))
                .unwrap()
                .len()
        })
        .sum();
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let stats = stats.read();
        let read: u64 = stats
            .containers
            .iter()
            .flat_map(|container| container.counts.bytes)
            .sum();
        let lag: u64 = stats.containers.iter().map(|container| container.lag).sum();
        if read >= all && lag == 0 {
            break;
        }
    }
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let stats = reader.join();
    let records: u64 = stats
        .containers
        .iter()
        .flat_map(|container| container.counts.records)
        .sum();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak_kib: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let cpu_ns = cpu.tv_sec * 1_000_000_000 + cpu.tv_nsec;
    println!(
        "{{\"bytes\":{all},\"records\":{records},\"cpu_ns\":{cpu_ns},\"peak_kib\":{peak_kib}}}"
    );
}
