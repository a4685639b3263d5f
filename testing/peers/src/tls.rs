//! A certificate authority of a test's own, and TLS in front of services that speak none.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{Context, Result};
use crate::web;

/// A private certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The certificate of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// A good one for this host.
    For(&'static str),
    /// One for this host that was good years ago.
    Expired(&'static str),
    /// One that has the host where only old clients look for it.
    CommonNameOnly(&'static str),
    /// The certificate of the authority, as a self-signed one made by `openssl req -x509` is.
    TheAuthoritysOwn,
}

/// TLS in front of a service; ends when dropped.
pub struct TlsProxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Authority {
    /// A new one, unknown to everybody.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([]).context("authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("authority")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("authority")?;
        Ok(Self { issuer })
    }

    /// Writes its certificate where `TLS_CA_FILE` can name it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, self.issuer.pem()).context(file.display())
    }

    /// Writes a good certificate for `host` and its key as PEM files.
    ///
    /// # Errors
    /// When no certificate can be made or a file cannot be written.
    pub fn write_server(&self, host: &str, certificate: &Path, key: &Path) -> Result<()> {
        let pair = KeyPair::generate().context("key")?;
        let params = CertificateParams::new(vec![host.to_owned()]).context("certificate")?;
        let signed = params.signed_by(&pair, &self.issuer).context("certificate")?;
        std::fs::write(certificate, signed.pem()).context(certificate.display())?;
        std::fs::write(key, pair.serialize_pem()).context(key.display())
    }

    /// Listens with a certificate and passes what comes on to `target`.
    ///
    /// # Errors
    /// When no certificate can be made or no port had.
    pub async fn proxy(&self, certificate: &Certificate, target: &str) -> Result<TlsProxy> {
        let (certificate, key) = self.make(certificate)?;
        let acceptor = acceptor(vec![certificate], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let accepting = tokio::spawn(pass_on(listener, acceptor, target.to_owned()));
        Ok(TlsProxy { address, accepting })
    }

    fn make(
        &self,
        certificate: &Certificate,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate().context("key")?;
        let names = match certificate {
            Certificate::For(host) | Certificate::Expired(host) => vec![(*host).to_owned()],
            Certificate::CommonNameOnly(_) | Certificate::TheAuthoritysOwn => Vec::new(),
        };
        let mut params = CertificateParams::new(names).context("certificate")?;
        match certificate {
            Certificate::For(_) => {}
            Certificate::Expired(_) => {
                params.not_before = rcgen::date_time_ymd(2020, 1, 1);
                params.not_after = rcgen::date_time_ymd(2021, 1, 1);
            }
            Certificate::CommonNameOnly(host) => {
                params.distinguished_name.push(DnType::CommonName, *host);
            }
            Certificate::TheAuthoritysOwn => {
                return Ok((self.issuer.der().clone(), pkcs8(self.issuer.key())));
            }
        }
        let signed = params.signed_by(&key, &self.issuer).context("certificate")?;
        Ok((signed.der().clone(), pkcs8(&key)))
    }
}

/// Runs TLS in front of the service at `target` as a process of its own, with a certificate and a
/// key from PEM files.
///
/// # Errors
/// When the files cannot be used, or it cannot listen.
pub async fn process(address: &str, target: &str, certificate: &Path, key: &Path) -> Result<()> {
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).context(certificate.display())?.collect();
    let chain = chain.context(certificate.display())?;
    let key = PrivateKeyDer::from_pem_file(key).context(key.display())?;
    pass_on(web::listen(address).await?, acceptor(chain, key)?, target.to_owned()).await;
    Ok(())
}

fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn pass_on(listener: TcpListener, acceptor: TlsAcceptor, target: String) {
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, target) = (acceptor.clone(), target.clone());
        tokio::spawn(async move {
            // A client that does not trust us hangs up here.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut server) = TcpStream::connect(&target).await else { return };
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        });
    }
}

impl TlsProxy {
    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
