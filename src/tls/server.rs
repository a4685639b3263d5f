//! The certificate that a server of ours shows, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate with its key, from two PEM files. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ServerIdentity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    held: RwLock<Held>,
}

#[derive(Debug)]
struct Held {
    identity: Arc<CertifiedKey>,
    /// The files' bytes when they were last looked at, or why there are none, so that a broken pair
    /// is warned about once.
    seen: Result<(Vec<u8>, Vec<u8>), String>,
}

impl ServerIdentity {
    /// Reads both files.
    ///
    /// # Errors
    /// What is wrong with them, as the predicate of a sentence about the two settings.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self, String> {
        let seen = bytes(certificate, key)?;
        let identity = Arc::new(parse(&seen.0, &seen.1)?);
        let held = RwLock::new(Held { identity, seen: Ok(seen) });
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self(Arc::new(Inner { certificate, key, held })))
    }

    /// Takes a new pair into use. While the files are being replaced, or when they are broken, the old
    /// pair stays.
    pub(crate) fn reread(&self) {
        let Inner { certificate, key, held } = &*self.0;
        let seen = bytes(certificate, key);
        let mut held = held.write().unwrap_or_else(PoisonError::into_inner);
        if seen == held.seen {
            return;
        }
        let read = seen.as_ref().map_err(Clone::clone);
        match read.and_then(|(certificate, key)| parse(certificate, key)) {
            Ok(identity) => {
                held.identity = Arc::new(identity);
                tracing::info!("the certificate of the intake was read again and is in use");
            }
            Err(problem) => {
                tracing::warn!("the intake keeps its certificate: the files {problem}");
            }
        }
        held.seen = seen;
    }

    /// TLS 1.2 and 1.3, HTTP/1.1 alone, no client certificates.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let resolver = Arc::new(self.clone());
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let held = self.0.held.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&held.identity))
    }
}

fn bytes(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>), String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| format!("cannot be read ({}): {error}", path.display()))
    };
    Ok((read(certificate)?, read(key)?))
}

fn parse(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| "hold no PEM certificate that can be read")?;
    if chain.is_empty() {
        return Err("hold no PEM certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "hold no PEM private key")?;
    let key = any_supported_type(&key).map_err(|_| "hold a private key of an unknown kind")?;
    let identity = CertifiedKey::new(chain, key);
    match identity.keys_match() {
        // A kind of key that cannot be compared may still be right.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(identity)
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("do not belong together: the key is not that of the certificate".to_owned())
        }
        Err(_) => Err("hold a certificate that cannot be read".to_owned()),
    }
}
