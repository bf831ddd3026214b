//! Debian packages through apt: installed into the machine only where nothing else will do.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// Installing needs rights this process does not have: the line a person can run instead.
#[derive(Debug)]
struct NeedsRoot {
    line: String,
}

impl std::fmt::Display for NeedsRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "installing packages needs root; run this, then the same command again:\n    {}",
            self.line
        )
    }
}

impl std::error::Error for NeedsRoot {}

/// A machine that has apt.
pub(crate) struct Apt;

impl Apt {
    /// Absent on a machine without apt.
    pub(crate) fn find() -> Option<Self> {
        shell::which("apt-get", &shell::path()).map(|_| Self)
    }

    /// Whether apt could install the package; looks at the lists it has, and fetches them once when that is not enough and we may.
    pub(crate) fn offers(&self, package: &str) -> bool {
        if self.has_candidate(package) {
            return true;
        }
        if privileged("apt-get").is_some() && self.update().is_ok() {
            return self.has_candidate(package);
        }
        false
    }

    /// Fetches apt's package lists.
    pub(crate) fn update(&self) -> Result<()> {
        let Some(mut command) = privileged("apt-get") else {
            bail!(NeedsRoot {
                line: "sudo apt-get update".into()
            })
        };
        shell::run_logged(
            "fetching apt's package lists",
            "apt-update",
            command.args(["-q", "update"]),
        )
    }

    /// Installs packages into the machine.
    ///
    /// # Errors
    /// [`NeedsRoot`] with the exact line to run, when this process is not root and sudo would ask for a password.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        let line = format!(
            "sudo apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        );
        let Some(mut command) = privileged("apt-get") else {
            bail!(NeedsRoot { line })
        };
        if packages.iter().any(|package| !self.has_candidate(package)) {
            self.update()?;
        }
        command
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages);
        shell::run_logged(
            &format!("installing {} by apt", packages.join(" ")),
            "apt-install",
            &mut command,
        )
    }

    fn has_candidate(&self, package: &str) -> bool {
        let policy = shell::stdout_of(
            Command::new("apt-cache")
                .env("LC_ALL", "C")
                .args(["policy", package]),
        );
        policy.is_ok_and(|text| candidate(&text).is_some())
    }
}

/// The program run as root: directly, or by a sudo that asks nothing.
fn privileged(program: &str) -> Option<Command> {
    let mut command = if shell::is_root() {
        Command::new(program)
    } else {
        shell::stdout_of(Command::new("sudo").args(["-n", "true"])).ok()?;
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Some(command)
}

/// The version that `apt-cache policy` would install.
fn candidate(policy: &str) -> Option<&str> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then_some(version)
}

#[cfg(test)]
mod tests {
    use super::candidate;

    #[test]
    fn candidate_of_policy() {
        let known = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  Version table:\n";
        assert_eq!(candidate(known), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(
            candidate("x:\n  Installed: (none)\n  Candidate: (none)\n"),
            None
        );
        assert_eq!(
            candidate(""),
            None,
            "apt-cache prints nothing for a name it never heard of"
        );
    }
}
