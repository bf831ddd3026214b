//! What a host process may listen on: the operator's list.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::declared::Transport;

/// One entry of the list of what host processes may listen on: `sshd.service`, `tcp/22`, `tcp/30000-32767`, or both, as in
/// `kubelet.service tcp/10250`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedListener {
    /// The unit; `None` is any.
    unit: Option<String>,
    /// First and last port of a protocol; `None` is all ports of both.
    ports: Option<(Transport, u16, u16)>,
}

impl AllowedListener {
    /// Whether it allows this unit to listen there.
    #[must_use]
    pub fn allows(&self, unit: &str, transport: Transport, port: u16) -> bool {
        self.unit.as_ref().is_none_or(|own| own == unit)
            && self
                .ports
                .is_none_or(|(own, first, last)| own == transport && (first..=last).contains(&port))
    }
}

/// A text that is no [`AllowedListener`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no allowed listener: write a unit (`sshd.service`), ports (`tcp/22`, `udp/30000-32767`), or a unit and ports \
     with a space between"
)]
pub struct AllowedListenerError(String);

impl FromStr for AllowedListener {
    type Err = AllowedListenerError;

    fn from_str(text: &str) -> Result<Self, AllowedListenerError> {
        let error = || AllowedListenerError(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        let (unit, ports) = match words[..] {
            [one] if one.contains('/') => (None, Some(one)),
            [unit] => (Some(unit), None),
            [unit, ports] if !unit.contains('/') => (Some(unit), Some(ports)),
            _ => return Err(error()),
        };
        Ok(Self {
            unit: unit.map(str::to_owned),
            ports: match ports {
                Some(text) => Some(self::ports(text).ok_or_else(error)?),
                None => None,
            },
        })
    }
}

/// `tcp/22` and `udp/30000-32767`.
fn ports(text: &str) -> Option<(Transport, u16, u16)> {
    let (transport, ports) = text.split_once('/')?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return None,
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((transport, first, last))
}

impl fmt::Display for AllowedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(unit) = &self.unit {
            f.write_str(unit)?;
        }
        let Some((transport, first, last)) = self.ports else {
            return Ok(());
        };
        let space = if self.unit.is_some() { " " } else { "" };
        write!(f, "{space}{}/{first}", transport.as_str())?;
        if first != last {
            write!(f, "-{last}")?;
        }
        Ok(())
    }
}

impl Serialize for AllowedListener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AllowedListener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::AllowedListener;
    use crate::declared::Transport::{Tcp, Udp};

    fn allows(entry: &str, unit: &str, port: u16) -> bool {
        let entry: AllowedListener = entry.parse().unwrap();
        assert_eq!(entry.to_string().parse(), Ok(entry.clone()));
        entry.allows(unit, Tcp, port)
    }

    #[test]
    fn an_entry_names_a_unit_or_ports_or_both() {
        assert!(allows("sshd.service", "sshd.service", 2_222));
        assert!(!allows("sshd.service", "ssh.service", 22));
        assert!(allows("tcp/22", "anything.service", 22));
        assert!(!allows("udp/22", "anything.service", 22));
        assert!(allows("tcp/30000-32767", "kube-proxy.service", 32_767));
        assert!(!allows("tcp/30000-32767", "kube-proxy.service", 32_768));
        assert!(allows(
            "kubelet.service tcp/10250",
            "kubelet.service",
            10_250
        ));
        assert!(!allows(
            "kubelet.service tcp/10250",
            "kubelet.service",
            10_255
        ));
        assert!(!allows("kubelet.service tcp/10250", "evil.service", 10_250));
        let entry: AllowedListener = "udp/53".parse().unwrap();
        assert!(entry.allows("x", Udp, 53) && !entry.allows("x", Tcp, 53));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for text in [
            "",
            "  ",
            "tcp/",
            "tcp/0",
            "tcp/70000",
            "tcp/9-8",
            "sctp/1",
            "a b c",
            "tcp/1 a",
            "a tcp",
        ] {
            let error = text.parse::<AllowedListener>().unwrap_err().to_string();
            assert!(error.contains("is no allowed listener"), "{text}: {error}");
        }
    }
}
