//! TLS on both sides: the certificate that players see, and whom we believe to be Redis.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// A file or certificate that cannot be used.
#[derive(Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

fn unusable<E: fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError(format!("{}: {error}", path.display()))
}

/// The certificate that players see. A reload may replace it; handshakes that have begun keep the one before.
#[derive(Debug)]
pub struct ServedCertificate(RwLock<Arc<CertifiedKey>>);

impl ServedCertificate {
    /// Reads the files.
    ///
    /// # Errors
    /// Where they are not readable or do not fit each other.
    pub fn read(tls: &Tls) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(ServedCertificate(RwLock::new(Arc::new(certified_key(tls)?)))))
    }

    /// Serves this one from now on; returns whether it is another.
    pub fn replace(&self, certified: CertifiedKey) -> bool {
        let mut served = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = served.cert != certified.cert;
        *served = Arc::new(certified);
        is_other
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The certificate's chain and its key.
///
/// # Errors
/// Where the files are not readable or do not fit each other.
pub fn certified_key(tls: &Tls) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(&tls.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key_file).map_err(unusable(&tls.key_file))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(unusable(&tls.cert_file))
}

/// Accepts players by TLS 1.2 and 1.3 with this certificate.
///
/// # Errors
/// Where the TLS library has none of these versions.
pub fn acceptor(certificate: Arc<ServedCertificate>) -> Result<TlsAcceptor, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connects to servers that the system's certificates vouch for, or only this file's.
///
/// # Errors
/// Where there are no certificates, or the file cannot be used.
pub fn client(ca_file: Option<&PathBuf>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(unusable(path))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsError("the system has no certificates; name a file: broker.tls_ca_file".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unusable(path))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
