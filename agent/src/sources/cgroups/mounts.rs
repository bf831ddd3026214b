//! Parser of `/proc/<pid>/mountinfo`. Total: a line that makes no sense is left out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// What of the file system is mounted. From inside a cgroup namespace it may begin with `/..`.
    pub(super) root: String,
    /// Where.
    pub(super) point: PathBuf,
    /// `cgroup2`, `cgroup`, ...
    pub(super) file_system: String,
}

/// All mounts, in the order of the file: `36 35 98:0 /root /point options shared:1 - type source super-options`.
pub(super) fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let root = String::from_utf8(unescape(fields.next()?)).ok()?;
    let point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
    let file_system = after.split(' ').next()?.to_owned();
    (root.starts_with('/') && point.is_absolute()).then_some(Mount {
        root,
        point,
        file_system,
    })
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(field: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Mount, parse_mountinfo};

    fn mount(root: &str, point: &str, file_system: &str) -> Mount {
        Mount {
            root: root.into(),
            point: PathBuf::from(point),
            file_system: file_system.into(),
        }
    }

    #[test]
    fn hybrid_unified_and_namespaced_mounts() {
        let text = "\
25 30 0:23 / /sys rw,relatime shared:7 - sysfs sysfs rw
33 25 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
35 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 25 0:28 /../../.. /host/cgroup ro - cgroup2 cgroup rw
41 25 0:28 /a\\040b /odd\\134place ro,noexec shared:1 master:2 - cgroup2 cgroup rw
";
        assert_eq!(
            parse_mountinfo(text),
            [
                mount("/", "/sys", "sysfs"),
                mount("/", "/sys/fs/cgroup/unified", "cgroup2"),
                mount("/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup"),
                mount("/../../..", "/host/cgroup", "cgroup2"),
                mount("/a b", "/odd\\place", "cgroup2"),
            ]
        );
    }

    #[test]
    fn nonsense_is_left_out() {
        for line in [
            "",
            " - ",
            "1 2 3 / relative rw - cgroup2 c rw",
            "1 2 3 /",
            "1 2 3 x /y rw - cgroup2 c rw",
            "- -",
        ] {
            assert_eq!(parse_mountinfo(line), [], "{line:?}");
        }
        assert_eq!(
            parse_mountinfo("1 2 3 / /a\\9 rw - t s o")[0].point,
            PathBuf::from("/a\\9")
        );
    }
}
