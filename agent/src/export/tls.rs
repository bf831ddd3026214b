//! The one TLS configuration of everything that leaves: rustls with ring, TLS 1.2 or later, verification always on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::TlsFiles;

/// Reads the files each time: a rotated certificate is used from the next connection on.
pub(super) fn client_config(files: &TlsFiles) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("set up TLS")?
        .with_root_certificates(roots(files)?);
    let Some((chain, key)) = &files.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key_der = PrivateKeyDer::from_pem_slice(&read(key)?)
        .with_context(|| format!("no private key in PEM form in {}", key.display()))?;
    builder
        .with_client_auth_cert(certificates(chain)?, key_der)
        .with_context(|| {
            format!(
                "use client certificate {} with key {}",
                chain.display(),
                key.display()
            )
        })
}

fn roots(files: &TlsFiles) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &files.certificate {
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .with_context(|| format!("trust a certificate of {}", path.display()))?;
        }
        return Ok(roots);
    }
    let (added, _unusable) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        bail!(
            "this system has no CA certificates: install ca-certificates or set OTEL_EXPORTER_OTLP_CERTIFICATE"
        );
    }
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("read certificates in PEM form from {}", path.display()))?;
    if certificates.is_empty() {
        bail!("no certificate in PEM form in {}", path.display());
    }
    Ok(certificates)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
