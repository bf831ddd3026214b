//! A real nginx from Debian's package, run from where it is unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::scene::DEBUG_PORT;
use crate::{debian::Bundle, receivers};

/// nginx and the libraries that a small machine may lack. All else it needs is in every Debian since 12.
const PACKAGES: Bundle = Bundle {
    name: "nginx",
    suite: "bookworm",
    packages: &["nginx", "libpcre2-8-0", "libssl3", "libcrypt1", "zlib1g"],
    files: &["usr/sbin/nginx", "usr/lib", "lib"],
};

/// The unpacked program.
pub(super) struct Nginx {
    root: PathBuf,
}

impl Nginx {
    /// Fetches it if it is not there.
    pub(super) fn ensure() -> Result<Self> {
        Ok(Self {
            root: PACKAGES.ensure(&receivers::cache()?)?,
        })
    }

    /// A command that serves the demo's three ports from the foreground, with its state in `dir`.
    pub(super) fn command(&self, dir: &Path) -> Result<Command> {
        let configuration = dir.join("nginx.conf");
        fs::write(&configuration, configure(dir))
            .with_context(|| format!("write {}", configuration.display()))?;
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = ["usr/lib", "lib"].map(|lib| self.root.join(lib).join(&multiarch));
        let mut command = Command::new(self.root.join("usr/sbin/nginx"));
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&configuration);
        command.env(
            "LD_LIBRARY_PATH",
            std::env::join_paths(libraries).context("join library folders")?,
        );
        Ok(command)
    }
}

/// nginx.conf: what is declared on 8080, the forgotten debug endpoint on all addresses, the admin endpoint on loopback.
fn configure(dir: &Path) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", dir.display()))
        .collect();
    format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {dir}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log off;\n{temporary}\
         \x20 server {{ listen 8080; listen [::]:8080; location / {{ return 200 \"shop\\n\"; }} }}\n\
         \x20 server {{ listen {DEBUG_PORT}; location / {{ stub_status; }} }}\n\
         \x20 server {{ listen 127.0.0.1:8081; location / {{ return 200 \"admin\\n\"; }} }}\n}}\n",
        dir = dir.display(),
    )
}
