//! The files that a configuration names: each is read once while the configuration is validated, within a bound, so
//! that a wrong one is an error with a line and not a failure at the first connection.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::reader::{Field, Section};

/// Neither a configuration nor a file of keys is ever larger.
const MAX_BYTES: u64 = 1 << 20;

/// The listener's certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain, the server's own certificate first, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// The whole file, if it is readable and not too large; else what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("cannot be read: it is larger than 1MiB".to_owned());
    }
    Ok(bytes)
}

/// The path and content of the file that this field names.
pub(super) fn open(field: &Field<'_>) -> Option<(PathBuf, Vec<u8>)> {
    let path = field.file()?;
    match read(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(problem) => {
            field.error(problem, format!("looked for {}", path.display()));
            None
        }
    }
}

/// A file that holds at least one certificate.
pub(super) fn certificates(field: &Field<'_>) -> Option<PathBuf> {
    let (path, bytes) = open(field)?;
    chain(field, &bytes).map(|_| path)
}

fn chain(field: &Field<'_>, bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    if chain.is_none() {
        field.error("contains no certificate", "a PEM file with a CERTIFICATE block is needed");
    }
    chain
}

/// `tls = { cert_file, key_file }`, where the key must be the certificate's.
pub(super) fn tls(section: &Section<'_>) -> Option<Tls> {
    let cert_field = section.field("cert_file");
    let key_field = section.field("key_file");
    section.close();
    if !section.is_present() {
        return None;
    }
    let (Some(cert_field), Some(key_field)) = (cert_field, key_field) else {
        section.error(
            "`tls` needs `cert_file` and `key_file`",
            "tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }",
        );
        return None;
    };
    let certificates = open(&cert_field).and_then(|(path, bytes)| Some((path, chain(&cert_field, &bytes)?)));
    let key = open(&key_field).and_then(|(path, bytes)| {
        let key = PrivateKeyDer::from_pem_slice(&bytes).ok();
        if key.is_none() {
            key_field.error("contains no private key", "a PEM file with a PRIVATE KEY block is needed");
        }
        Some((path, key?))
    });
    let ((cert_file, chain), (key_file, key)) = (certificates?, key?);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Err(error) = rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        key_field.error(
            format_args!("does not go with the certificate: {error}"),
            "give the key that the certificate was made for",
        );
        return None;
    }
    Some(Tls { cert_file, key_file })
}
