//! Keys: one that signs, and those that verify. Ed25519 (RFC 8032), as PEM (RFC 8410).

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use sha2::{Digest, Sha256};

/// What comes before the 32 bytes of the key in an Ed25519 public key in DER. Source: RFC 8410,
/// section 4 and appendix A.
const DER_PREFIX: [u8; 12] = [48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];
/// Bytes of a key's SHA-256 in its id.
const ID_BYTES: usize = 8;

/// Why a key cannot be used. Never contains the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// `RECEIPT_KEY` is not usable.
    #[error(
        "RECEIPT_KEY must be an Ed25519 private key in PEM, as `bucket-av-scanner receipt-key new` \
         prints it"
    )]
    Private,
    /// `RECEIPT_TRUSTED_KEYS` is not usable.
    #[error(
        "RECEIPT_TRUSTED_KEYS must be one or more Ed25519 public keys in PEM, as \
         `bucket-av-scanner receipt-key public` prints them"
    )]
    Public,
    /// The system gives no random bytes.
    #[error("no key can be made: the system gives no random bytes")]
    Random,
}

/// The key that signs receipts.
pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
    id: String,
}

/// A key that verifies receipts.
#[derive(Debug, Clone)]
pub(crate) struct VerifyingKey {
    id: String,
    key: ParsedPublicKey,
}

/// All keys of one process.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    signing: Option<SigningKey>,
    trusted: Vec<VerifyingKey>,
}

impl Keys {
    /// Reads the PEM of a private key and of public keys. What the private key signs is trusted.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(crate) fn new(private: Option<&str>, public: Option<&str>) -> Result<Self, KeyError> {
        let signing = private.map(SigningKey::from_pem).transpose()?;
        let mut trusted = public.map_or(Ok(Vec::new()), VerifyingKey::all_from_pem)?;
        if let Some(key) = &signing {
            trusted.push(VerifyingKey::new(key.public()).ok_or(KeyError::Private)?);
        }
        Ok(Self { signing, trusted })
    }

    /// The key that signs; `None` where no receipts are made.
    pub(crate) const fn signing(&self) -> Option<&SigningKey> {
        self.signing.as_ref()
    }

    /// Whether no receipt can be verified.
    pub(crate) const fn is_empty(&self) -> bool {
        self.trusted.is_empty()
    }

    pub(super) fn trusted(&self, id: &str) -> Option<&VerifyingKey> {
        self.trusted.iter().find(|key| key.id == id)
    }
}

impl SigningKey {
    /// A new key, at random.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        Ed25519KeyPair::generate().map(Self::new).map_err(|_| KeyError::Random)
    }

    fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| KeyError::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der());
        pair.map(Self::new).map_err(|_| KeyError::Private)
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let id = id(pair.public_key().as_ref());
        Self { pair, id }
    }

    /// The private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// When the key cannot be written.
    pub(crate) fn to_pem(&self) -> Result<String, KeyError> {
        let der = self.pair.to_pkcs8v1().map_err(|_| KeyError::Private)?;
        Ok(pem("PRIVATE KEY", der.as_ref()))
    }

    /// The public key in PEM (`SubjectPublicKeyInfo`).
    ///
    /// # Errors
    /// When the key cannot be written.
    pub(crate) fn public_pem(&self) -> Result<String, KeyError> {
        let der = self.pair.public_key().as_der().map_err(|_| KeyError::Public)?;
        Ok(pem("PUBLIC KEY", der.as_ref()))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl VerifyingKey {
    fn new(key: &[u8]) -> Option<Self> {
        Some(Self { id: id(key), key: ParsedPublicKey::new(&ED25519, key).ok()? })
    }

    fn all_from_pem(pem: &str) -> Result<Vec<Self>, KeyError> {
        let ders: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| KeyError::Public)?;
        let raw = |der: &SubjectPublicKeyInfoDer<'_>| {
            let key = der.strip_prefix(&DER_PREFIX).filter(|key| key.len() == 32);
            key.and_then(Self::new).ok_or(KeyError::Public)
        };
        match ders.iter().map(raw).collect::<Result<Vec<_>, _>>()? {
            keys if keys.is_empty() => Err(KeyError::Public),
            keys => Ok(keys),
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

/// The name of a public key in receipts: the beginning of its SHA-256.
fn id(key: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(key)[..ID_BYTES])
}

/// Both kinds of keys fit on one line of PEM.
fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}
