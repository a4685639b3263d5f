//! What is wrong with a peer's certificate, in words that say what to do.
//!
//! TLS here follows the rules of the web: a name is looked for in the subject alternative names
//! alone, and an authority is no server. Other clients are laxer, so a certificate that works with
//! them may be refused here, by an error that names no remedy.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use rustls::OtherError;

/// What is wrong with the certificate that `error` is about, if it is about one.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(invalid)) = cause.downcast_ref() {
            return sentence(invalid);
        }
        // `source` of an I/O error skips the error that it carries.
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
                "the server's certificate is not for this host name: it has to be among its subject \
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
