//! Files out of Debian packages of any suite, with apt lists of their own: nothing is installed and the machine's apt is left alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Debian's signing keys, part of every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Packages that are unpacked together.
pub(crate) struct Bundle {
    /// Name of the folder they go to.
    pub(crate) name: &'static str,
    /// Debian's release, such as `trixie`.
    pub(crate) suite: &'static str,
    /// As apt takes them: `name`, or `name=version` where `*` stands for anything.
    pub(crate) packages: &'static [&'static str],
    /// What is wanted of them, from the root of the file system; a folder stands for all in it.
    pub(crate) files: &'static [&'static str],
}

impl Bundle {
    /// The folder below `cache` that holds the files, fetched if it is not there.
    ///
    /// # Errors
    /// On a machine without apt or a Debian mirror in its sources, or without network.
    pub(crate) fn ensure(&self, cache: &Path) -> Result<PathBuf> {
        let place = cache.join(self.name);
        if place.exists() {
            return Ok(place);
        }
        shell::note(format_args!(
            "fetching {} from Debian {}; unpacked, not installed",
            self.packages.join(" "),
            self.suite
        ));
        let work = cache.join(format!("{}.new", self.name));
        self.fetch(&work)
            .with_context(|| format!("fetch {}", self.name))?;
        fs::rename(work.join("wanted"), &place)
            .with_context(|| format!("move {} into place", self.name))?;
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        Ok(place)
    }

    /// Leaves the wanted files in `work/wanted`.
    fn fetch(&self, work: &Path) -> Result<()> {
        if work.exists() {
            fs::remove_dir_all(work).with_context(|| format!("remove {}", work.display()))?;
        }
        let apt = Suite::at(&work.join("apt"), self.suite)?;
        let (debs, all, wanted) = (work.join("debs"), work.join("all"), work.join("wanted"));
        for dir in [&debs, &all, &wanted] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        shell::stdout_of(apt.get(&["update"]).current_dir(&debs))?;
        shell::stdout_of(
            apt.get(&["download"])
                .args(self.packages)
                .current_dir(&debs),
        )?;
        for deb in fs::read_dir(&debs).with_context(|| format!("list {}", debs.display()))? {
            let deb = deb
                .with_context(|| format!("list {}", debs.display()))?
                .path();
            shell::stdout_of(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&all))?;
        }
        for file in self.files {
            let to = wanted.join(file);
            let dir = to.parent().context("a wanted file lies in a folder")?;
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            fs::rename(all.join(file), &to)
                .with_context(|| format!("{} is in none of {}", file, self.packages.join(", ")))?;
        }
        Ok(())
    }
}

/// apt with one suite and folders of its own.
struct Suite {
    dir: PathBuf,
}

impl Suite {
    fn at(dir: &Path, suite: &str) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("create {}", dir.display()))?;
        }
        let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
        fs::write(dir.join("sources.list"), source)
            .with_context(|| format!("write {}", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn get(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        let at = |option: &str, sub: &str| format!("{option}={}", self.dir.join(sub).display());
        for option in [
            at("Dir::Etc::sourcelist", "sources.list"),
            at("Dir::State::lists", "lists"),
            at("Dir::Cache", "cache"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "Dir::State::status=/dev/null".into(),
            "APT::Sandbox::User=".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.arg("-qq").args(arguments);
        command
    }
}

/// The mirror that this machine uses itself.
fn mirror() -> Result<String> {
    let uris = shell::stdout_of(Command::new("apt-get").args(["update", "--print-uris"]))
        .context("ask apt for its mirror")?;
    mirror_of(&uris).context("no Debian mirror in this machine's apt sources")
}

/// The Debian mirror among lines such as `'http://host/debian/dists/bookworm/InRelease' ...`. Debian's cloud images name a
/// file that lists mirrors instead, `mirror+file:/etc/apt/mirrors/debian.list`, which apt takes as it is.
fn mirror_of(uris: &str) -> Option<String> {
    uris.lines().find_map(|line| {
        let mirror = line.strip_prefix('\'')?.split_once("/dists/")?.0;
        let is_list = mirror.starts_with("mirror") && mirror.ends_with("/debian.list");
        (is_list || mirror.ends_with("/debian")).then(|| mirror.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::mirror_of;

    #[test]
    fn mirror_among_uris() {
        let uris = "'http://m.example/debian-security/dists/x/InRelease' a 0 \n'https://m.example/debian/dists/bookworm/InRelease' b 0 \n";
        assert_eq!(mirror_of(uris).as_deref(), Some("https://m.example/debian"));
        let cloud = "'mirror+file:/etc/apt/mirrors/debian-security.list/dists/x/InRelease' a 0 \n'mirror+file:/etc/apt/mirrors/debian.list/dists/bookworm/InRelease' b 0 \n";
        assert_eq!(
            mirror_of(cloud).as_deref(),
            Some("mirror+file:/etc/apt/mirrors/debian.list")
        );
        assert_eq!(
            mirror_of("'http://m.example/ubuntu/dists/noble/InRelease' c 0\n"),
            None
        );
    }
}
