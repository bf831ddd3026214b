//! A Rust toolchain with the sources of `core`, by the first way that fits: there already, rustup's nightly, Debian's packages.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{TOOLCHAIN_VARIABLE, apt::Apt, linker};
use crate::shell;

/// The nightly that is installed when none with sources is there: rustc 1.97, LLVM 22.
const NIGHTLY: &str = "nightly-2026-05-20";
/// The name under which Debian's rustc becomes known to rustup.
const DEBIAN_LINK: &str = "plumbline-debian";
/// Debian's rustc with the sources of `core`; they bring their LLVM along.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Where Debian's packages put their toolchain.
const DEBIAN_SYSROOT: &str = "/usr";
/// What `PLUMBLINE_EBPF_TOOLCHAIN` is set to without rustup, where there are no names: any value allows `-Z build-std`.
const BY_PATH: &str = "path";
/// The oldest rustc that compiles the workspace, `rust-version` in Cargo.toml.
const RUSTC_MIN: (u32, u32) = (1, 95);

/// A toolchain that can build the eBPF object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Its name for `rustup run`, or [`BY_PATH`] without rustup.
    pub(crate) name: String,
    /// Where it lies.
    pub(crate) sysroot: PathBuf,
    /// First line of `rustc --version`.
    pub(crate) version: String,
    /// Major version of the LLVM in it.
    pub(crate) llvm_major: u32,
    /// Goes first in PATH, so that `cargo` is this toolchain's: only without rustup.
    pub(crate) path_first: Option<PathBuf>,
}

/// Finds or installs a toolchain.
pub(crate) fn ensure() -> Result<Toolchain> {
    let rustup = shell::which("rustup", &shell::path());
    if let Some(name) = env::var(TOOLCHAIN_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
    {
        return chosen(&name, rustup.is_some());
    }
    let ready = || {
        if rustup.is_some() {
            by_rustup()
        } else {
            by_path()
        }
    };
    if let Some(toolchain) = ready()? {
        return Ok(toolchain);
    }
    let mut failed = Vec::new();
    if rustup.is_some() {
        // Debian's packages may be there and only unknown to rustup: costs nothing, so it goes first.
        if usable(DEBIAN_LINK, Path::new(DEBIAN_SYSROOT)).is_ok() {
            link_debian()?;
        } else if let Err(error) = install_nightly() {
            shell::note("rustup could not get it; trying Debian's packages");
            failed.push(error);
        }
        if let Some(toolchain) = ready()? {
            return Ok(toolchain);
        }
    }
    match install_debian(rustup.is_some()) {
        Ok(()) => {}
        Err(error) if failed.is_empty() => return Err(error),
        Err(error) => {
            return Err(error.context(format!("neither by rustup: {:#}", failed.remove(0))));
        }
    }
    ready()?.with_context(|| {
        format!(
            "{} are installed, but {DEBIAN_SYSROOT} has no usable rustc",
            DEBIAN_PACKAGES.join(", ")
        )
    })
}

/// The toolchain that the person named: used as it is, or an error.
fn chosen(name: &str, rustup: bool) -> Result<Toolchain> {
    let found = if rustup {
        let path = installed()?
            .into_iter()
            .find(|(known, _)| is_named(known, name))
            .map(|(_, path)| path);
        path.map(|path| usable(name, &path)).transpose()?
    } else {
        by_path()?
    };
    found.ok_or_else(|| {
        anyhow!("{TOOLCHAIN_VARIABLE}={name}: no such toolchain; unset it to let setup choose, or see `rustup toolchain list`")
    })
}

/// The best of rustup's toolchains that is usable.
fn by_rustup() -> Result<Option<Toolchain>> {
    let known = installed()?;
    let wanted = [NIGHTLY, "nightly", DEBIAN_LINK];
    Ok(wanted.iter().find_map(|name| {
        let (_, path) = known.iter().find(|(known, _)| is_named(known, name))?;
        usable(name, path).ok()
    }))
}

/// Without rustup: the rustc of PATH, or Debian's beside it.
fn by_path() -> Result<Option<Toolchain>> {
    let first = shell::stdout_of(Command::new("rustc").args(["--print", "sysroot"]));
    let sysroots = first
        .ok()
        .map(|text| PathBuf::from(text.trim()))
        .into_iter()
        .chain([PathBuf::from(DEBIAN_SYSROOT)]);
    Ok(sysroots
        .filter_map(|sysroot| usable(BY_PATH, &sysroot).ok())
        .next()
        .map(|mut toolchain| {
            toolchain.path_first = Some(toolchain.sysroot.join("bin"));
            toolchain
        }))
}

/// Names and folders of rustup's toolchains.
fn installed() -> Result<Vec<(String, PathBuf)>> {
    let text = shell::stdout_of(Command::new("rustup").args(["toolchain", "list", "-v"]))?;
    Ok(text.lines().filter_map(listed).collect())
}

/// One line of `rustup toolchain list -v`: name, perhaps `(active, default)`, folder.
fn listed(line: &str) -> Option<(String, PathBuf)> {
    let name = line.split_whitespace().next()?;
    let path = line
        .get(line.find(" /").or_else(|| line.find("\t/"))?..)?
        .trim();
    Some((name.to_owned(), PathBuf::from(path)))
}

/// Whether rustup means that toolchain by `name`: it lists `nightly` as `nightly-x86_64-unknown-linux-gnu`.
fn is_named(known: &str, name: &str) -> bool {
    known
        .strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(host_begin()))
}

/// `-x86_64-`, how a host triple begins behind a toolchain's name.
fn host_begin() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "-aarch64-"
    } else {
        "-x86_64-"
    }
}

/// The toolchain at `sysroot`, if it has cargo, the sources of `core`, and versions that fit.
fn usable(name: &str, sysroot: &Path) -> Result<Toolchain> {
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        bail!("{} has no sources of core (rust-src)", sysroot.display());
    }
    let rustc = sysroot.join("bin/rustc");
    if fs::metadata(sysroot.join("bin/cargo")).is_err() {
        bail!("{} has no cargo", sysroot.display());
    }
    let said = shell::stdout_of(Command::new(&rustc).arg("-vV"))?;
    let (version, llvm_major) =
        versions(&said).with_context(|| format!("{} -vV says no versions", rustc.display()))?;
    if version < RUSTC_MIN || !linker::LLVM_MAJORS.contains(&llvm_major) {
        bail!(
            "{} is rustc {version:?} with LLVM {llvm_major}: too old or too new",
            rustc.display()
        );
    }
    let version = said.lines().next().unwrap_or_default().to_owned();
    Ok(Toolchain {
        name: name.to_owned(),
        sysroot: sysroot.to_owned(),
        version,
        llvm_major,
        path_first: None,
    })
}

/// rustc's (major, minor) and LLVM's major, from `rustc -vV`.
fn versions(said: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let mut release = field("release:")?.split(['.', '-']);
    let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((version, llvm))
}

fn install_nightly() -> Result<()> {
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--no-self-update",
    ]);
    // One attempt: where the servers are out of reach, Debian's packages are the answer, not patience.
    command.env("RUSTUP_MAX_RETRIES", "1");
    shell::run_logged(
        &format!("installing {NIGHTLY} with rust-src by rustup"),
        "rustup",
        &mut command,
    )
}

fn install_debian(rustup: bool) -> Result<()> {
    let apt = Apt::find().filter(|apt| apt.offers(DEBIAN_PACKAGES[0])).with_context(|| {
        format!("this machine's apt has no {}. Fix: `rustup toolchain install {NIGHTLY} --component rust-src`", DEBIAN_PACKAGES[0])
    })?;
    apt.install(&DEBIAN_PACKAGES)?;
    if rustup { link_debian() } else { Ok(()) }
}

fn link_debian() -> Result<()> {
    shell::note(format_args!(
        "making Debian's rustc known to rustup as `{DEBIAN_LINK}`"
    ));
    shell::stdout_of(Command::new("rustup").args([
        "toolchain",
        "link",
        DEBIAN_LINK,
        DEBIAN_SYSROOT,
    ]))
    .map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{host_begin, is_named, listed, versions};

    #[test]
    fn names_with_their_host() {
        let full = format!("nightly{}unknown-linux-gnu", host_begin());
        assert!(is_named(&full, "nightly"));
        assert!(is_named("debian", "debian"));
        assert!(!is_named(&full, "night"));
        assert!(
            !is_named("nightly-2026-05-20", "nightly"),
            "a dated nightly is another toolchain"
        );
    }

    #[test]
    fn rustup_lines() {
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(
            listed("stable-x (active, default) /r/t/stable-x"),
            Some(("stable-x".into(), path("/r/t/stable-x")))
        );
        assert_eq!(
            listed("nightly-x /home/a b/nightly-x"),
            Some(("nightly-x".into(), path("/home/a b/nightly-x")))
        );
        assert_eq!(
            listed("debian\t/usr"),
            Some(("debian".into(), path("/usr"))),
            "older rustups print a tab"
        );
        assert_eq!(listed("no installed toolchains"), None);
    }

    #[test]
    fn versions_of_rustc() {
        let nightly = "rustc 1.97.0-nightly (e50 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(versions(nightly), Some(((1, 97), 22)));
        assert_eq!(
            versions("release: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(((1, 96), 22))
        );
        assert_eq!(
            versions("release: 1.96.0\n"),
            None,
            "a rustc without LLVM cannot make bitcode"
        );
    }
}
