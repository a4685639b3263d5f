//! Which authorities a server's certificate may come from, and what is wrong with a certificate, in
//! words that say what to do.
//!
//! TLS here follows the rules of the web: a name must be among the subject alternative names, and
//! an authority's own certificate is not a server's. Other clients are laxer, so a certificate that
//! works with them may be refused here, by an error that names no remedy.

mod server;

use std::error::Error;
use std::io;

use rustls::{CertificateError, OtherError, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub(crate) use self::server::ServerIdentity;

/// Certificate authorities trusted besides the platform's; none by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    authorities: Vec<CertificateDer<'static>>,
    /// The same as text, for the broker's client.
    pem: Option<String>,
}

impl Trust {
    /// Reads a bundle of PEM certificates; `None` unless there is at least one and all are
    /// readable. They are checked by the verifier that will use them: a client library may panic on
    /// a certificate that it cannot read, or leave it out.
    pub(crate) fn from_pem(pem: &[u8]) -> Option<Self> {
        let authorities: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let mut roots = RootCertStore::empty();
        let readable = authorities.iter().all(|der| roots.add(der.clone()).is_ok());
        let pem = Some(String::from_utf8_lossy(pem).into_owned());
        (readable && !authorities.is_empty()).then_some(Self { authorities, pem })
    }

    /// The certificates, DER.
    pub(crate) fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The PEM text that they were read from; `None` without any.
    pub(crate) fn pem(&self) -> Option<&str> {
        self.pem.as_deref()
    }

    /// These and the platform's authorities. A platform without authorities, or with unreadable
    /// ones, is no error where none of them is needed.
    pub(crate) fn with_platform(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.authorities.iter().cloned());
        roots
    }
}

/// What is wrong with the server's certificate, where that is the cause of `error`.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(invalid)) = cause.downcast_ref() {
            return sentence(invalid);
        }
        // `source` of an I/O error skips the error inside it.
        let carried = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    None
}

fn sentence(invalid: &CertificateError) -> Option<&'static str> {
    match invalid {
        CertificateError::UnknownIssuer => Some(
            "the authority that signed the server's certificate is unknown: name its certificate in \
             TLS_CA_FILE",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Some(
                "the server's certificate is not for this host name: it must be among its subject \
             alternative names (a common name does not count)",
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            Some("the server's certificate has expired, or the clock of this host is wrong")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Some("the server's certificate is not valid yet, or the clock of this host is wrong")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Some(
            "the server's certificate is not for servers: its extended key usage lacks serverAuth",
        ),
        CertificateError::Other(OtherError(other))
            if matches!(other.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            Some(
                "the server's certificate is itself an authority (CA:TRUE), as self-signed ones often \
                 are: give the server one that an authority signed",
            )
        }
        _ => None,
    }
}
