//! HTTP requests that the server itself makes: of key sets, and of `drawbridge publish`. Owns whom they trust.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

/// Follows no redirect: another address is not the one that was named.
pub(crate) fn agent(url: &str, roots: Vec<Certificate<'static>>, timeout: Duration) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::from(roots))
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(is_https(url))
        .max_redirects(0)
        .timeout_global(Some(timeout))
        .max_idle_connections(0)
        .build();
    config.new_agent()
}

/// Whether the URL asks for TLS.
pub(crate) fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// The certificates of this file, or of the system.
///
/// # Errors
/// Where there are none, and why.
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, String> {
    let certificates = match ca_file {
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("{}: {error}", file.display()))?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err(found
                    .errors
                    .first()
                    .map_or_else(|| "there are none".to_owned(), ToString::to_string));
            }
            found.certs
        }
    };
    Ok(certificates.iter().map(|one| Certificate::from_der(one.as_ref()).to_owned()).collect())
}
