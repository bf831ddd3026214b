//! Names below the log root, `<namespace>_<pod>_<uid>/<container>/<n>.log…`, to what they say. Pure and total.
//!
//! They are chosen by people who may mean harm, and become paths again: only what the kubelet itself would make is taken.

/// Longest name of a namespace, a pod or a container: that of a DNS subdomain.
const NAME_BYTES_MAX: usize = 253;
const UID_BYTES_MAX: usize = 64;
const STAMP: &[u8; 15] = b"00000000-000000";

/// A pod, by the name of its directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// `k8s.namespace.name`.
    pub namespace: String,
    /// `k8s.pod.name`.
    pub pod: String,
    /// `k8s.pod.uid`; of a static pod the hash of its manifest.
    pub uid: String,
}

/// A container of a pod: all that a path tells. Equal to no other container's as long as the pod lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Whose.
    pub pod: PodName,
    /// `k8s.container.name`.
    pub container: String,
}

/// A log file of a container, by its name. Ordered from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    /// How often the container was restarted before.
    pub restart: u32,
    /// Which of the files of that run.
    pub age: Age,
    /// Compressed.
    pub gzip: bool,
}

/// The place of a file among those of one run of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// Renamed at `YYYYMMDD-HHMMSS`.
    Rotated([u8; 15]),
    /// The one that is written to.
    Live,
}

impl PodName {
    /// `<namespace>_<pod>_<uid>`.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let mut parts = name.split(|byte| *byte == b'_');
        let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let uid_ok = uid.len() <= UID_BYTES_MAX && is_name(uid);
        if parts.next().is_some() || !uid_ok || !is_name(namespace) || !is_name(pod) {
            return None;
        }
        Some(Self {
            namespace: owned(namespace)?,
            pod: owned(pod)?,
            uid: owned(uid)?,
        })
    }

    /// The name of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.pod, self.uid)
    }
}

impl Source {
    /// From the names of the two directories.
    #[must_use]
    pub fn parse(pod: &[u8], container: &[u8]) -> Option<Self> {
        Some(Self {
            pod: PodName::parse(pod)?,
            container: container_name(container)?,
        })
    }

    /// Its directory, from the log root.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("{}/{}", self.pod.directory(), self.container)
    }
}

/// The name of a container's directory.
#[must_use]
pub fn container_name(name: &[u8]) -> Option<String> {
    is_name(name).then(|| owned(name)).flatten()
}

impl LogName {
    /// `0.log`, `0.log.20261125-101500` or `0.log.20261125-101500.gz`. `None` for all else: among it the kubelet's `.tmp`.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let dot = name.iter().position(|byte| *byte == b'.')?;
        let (number, rest) = name.split_at_checked(dot)?;
        let restart = restart(number)?;
        let rest = rest.strip_prefix(b".log")?;
        let (age, gzip) = if rest.is_empty() {
            (Age::Live, false)
        } else {
            let (stamp, rest) = rest.strip_prefix(b".")?.split_at_checked(STAMP.len())?;
            let stamp: [u8; 15] = stamp.try_into().ok()?;
            let like = |(byte, like): (&u8, &u8)| match like {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            };
            if !stamp.iter().zip(STAMP).all(like) || !matches!(rest, b"" | b".gz") {
                return None;
            }
            (Age::Rotated(stamp), !rest.is_empty())
        };
        Some(Self { restart, age, gzip })
    }

    /// The name again.
    #[must_use]
    pub fn file_name(&self) -> String {
        let restart = self.restart;
        match self.age {
            Age::Live => format!("{restart}.log"),
            Age::Rotated(stamp) => {
                let gzip = if self.gzip { ".gz" } else { "" };
                format!("{restart}.log.{}{gzip}", String::from_utf8_lossy(&stamp))
            }
        }
    }
}

fn restart(number: &[u8]) -> Option<u32> {
    let canonical = matches!(number, b"0") || !number.starts_with(b"0");
    if number.is_empty() || !canonical || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Letters, digits, `-` and `.`; neither empty, too long, nor beginning with a dot.
fn is_name(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with(b".")
        && name.iter().all(allowed)
}

fn owned(name: &[u8]) -> Option<String> {
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directories_of_pods() {
        let name = PodName::parse(b"kube-system_etcd-n1_0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(
            (name.namespace.as_str(), name.pod.as_str()),
            ("kube-system", "etcd-n1")
        );
        assert_eq!(
            name.directory(),
            "kube-system_etcd-n1_0123456789abcdef0123456789abcdef"
        );
        let long = [b"a_b_".as_slice(), &[b'c'; 65]].concat();
        for bad in [
            b"".as_slice(),
            b"a_b",
            b"a_b_c_d",
            b"_b_c",
            b"a__c",
            b"a_b_",
            b"a_b_..",
            b"a_../x_c",
            b"a_b_c/d",
            b"a_b\x1b_c",
            b"a_b_\xff",
            &long,
        ] {
            assert_eq!(PodName::parse(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn names_of_files() {
        let stamp = Age::Rotated(*b"20261125-101500");
        let log = |restart, age, gzip| Some(LogName { restart, age, gzip });
        for (name, want) in [
            ("0.log", log(0, Age::Live, false)),
            ("17.log", log(17, Age::Live, false)),
            ("3.log.20261125-101500", log(3, stamp, false)),
            ("3.log.20261125-101500.gz", log(3, stamp, true)),
            ("3.log.20261125-101500.tmp", None),
            ("3.log.20261125-101500.gz.tmp", None),
            ("3.log.gz", None),
            ("3.log.", None),
            ("03.log", None),
            ("+3.log", None),
            ("4294967296.log", None),
            (".log", None),
            ("a.log", None),
            ("3.txt", None),
            ("3.log.2026112x-101500", None),
        ] {
            assert_eq!(LogName::parse(name.as_bytes()), want, "{name}");
            if let Some(log) = want {
                assert_eq!(log.file_name(), name);
            }
        }
    }

    #[test]
    fn order_is_from_the_oldest_to_the_newest() {
        let names = [
            "0.log.20250101-000000.gz",
            "0.log.20260101-000000",
            "0.log",
            "1.log.20240101-000000",
            "1.log",
        ];
        let parsed: Vec<_> = names
            .iter()
            .map(|name| LogName::parse(name.as_bytes()).unwrap())
            .collect();
        assert!(parsed.is_sorted());
    }

    proptest! {
        #[test]
        fn what_is_taken_is_one_plain_path_component(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(pod) = PodName::parse(&name) {
                prop_assert_eq!(pod.directory().into_bytes(), name.clone());
            }
            if let Some(container) = container_name(&name) {
                prop_assert!(!container.contains('/') && !container.starts_with('.'));
            }
            if let Some(log) = LogName::parse(&name) {
                prop_assert_eq!(log.file_name().into_bytes(), name);
            }
        }
    }
}
