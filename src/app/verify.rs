//! The `verify` command: whether an object has a receipt that calls exactly its bytes clean.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::receipts::keys;
use super::{BAD_CONFIGURATION, fail, say};
use crate::clock;
use crate::config::{Inspection, Secret};
use crate::receipt::{Database, Freshness, Keys, Standing, Standings, Statement};
use crate::store::{Identity, MAX_KEY, Pin, Store, TagsSeen};

/// The exit code when nothing can be said of the object.
pub(super) const NOT_FOUND_OUT: u8 = 3;
/// What stands between a key and its version.
const VERSION: &str = "?versionId=";

/// An object, as `s3://BUCKET/KEY` or `s3://BUCKET/KEY?versionId=VERSION`. The key as it is, not
/// percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    bucket: String,
    key: String,
    version: Option<String>,
}

/// What to verify.
#[derive(Debug, Clone)]
pub struct Verify {
    /// The object.
    pub address: Address,
    /// Read its bytes too, and compare their SHA-256.
    pub download: bool,
    /// Trust the public keys in this file, and no others.
    pub public_key: Option<PathBuf>,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected s3://BUCKET/KEY or s3://BUCKET/KEY?versionId=VERSION";
        let rest = text.strip_prefix("s3://").ok_or(FORM)?;
        let (bucket, object) = rest.split_once('/').ok_or(FORM)?;
        let (key, version) = match object.rsplit_once(VERSION) {
            Some((key, version)) => (key, Some(version.to_owned())),
            None => (object, None),
        };
        if bucket.is_empty() || key.is_empty() || version.as_deref() == Some("") {
            return Err(FORM);
        }
        if key.len() > MAX_KEY {
            return Err("a key has at most 1024 bytes");
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned(), version })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is the uploader's choice, and may hold what a terminal would take for a command.
        write!(f, "s3://{}/{}", self.bucket.escape_debug(), self.key.escape_debug())?;
        match &self.version {
            Some(version) => write!(f, "{VERSION}{}", version.escape_debug()),
            None => Ok(()),
        }
    }
}

impl Address {
    /// The key that the whole text would be, if it names no version: an uploader may have chosen such a
    /// key, to have another object looked at.
    fn whole_key(&self) -> Option<String> {
        let whole = format!("{}{VERSION}{}", self.key, self.version.as_deref()?);
        (whole.len() <= MAX_KEY).then_some(whole)
    }

    pub(super) fn new(bucket: &str, key: &str, version: Option<&str>) -> Self {
        let version = version.map(str::to_owned);
        Self { bucket: bucket.to_owned(), key: key.to_owned(), version }
    }

    /// The address of these bytes.
    pub(super) fn of(identity: &Identity) -> Self {
        let version = match &identity.pin {
            Pin::Version(version) => Some(version.clone()),
            Pin::Etag { null_version: true, .. } => Some("null".to_owned()),
            Pin::Etag { null_version: false, .. } | Pin::Nothing => None,
        };
        Self { bucket: identity.bucket.clone(), key: identity.key.clone(), version }
    }
}

/// Verifies one object and prints one line. Exit codes: 0 verified clean or released, 1 not, 3 could not be found
/// out, 78 configuration.
pub async fn verify(settings: Inspection, what: Verify) -> ExitCode {
    let public_key = what.public_key.as_deref();
    let (keys, store) = match prepare(settings.clone(), public_key).await {
        Ok(prepared) => prepared,
        Err(error) => {
            return fail(error, BAD_CONFIGURATION);
        }
    };
    let freshness = settings.receipts.max_age.map_or(Freshness::Any, since);
    let standings = Standings { keys: &keys, tag_key: &settings.tag_key, freshness };
    match look(&store, &standings, &what).await {
        Ok((standing, line)) => {
            say(format!("{standing}: {}: {line}", what.address));
            if standing.is_accepted() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => fail(format!("{}: {why}", what.address), NOT_FOUND_OUT),
    }
}

/// The keys that are trusted, and the store. With a file, its keys alone are trusted.
///
/// # Errors
/// When there is no key, or one of them cannot be used.
pub(super) async fn prepare(
    mut settings: Inspection,
    public_key: Option<&Path>,
) -> Result<(Keys, Store), String> {
    if let Some(path) = public_key {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|error| format!("--public-key {}: {error}", path.display()))?;
        // The named key alone: whoever names one means that one.
        settings.receipts.key = None;
        settings.receipts.trusted = Some(Secret::from(text.as_str()));
    }
    let keys = keys(&settings.receipts).map_err(|error| match public_key {
        Some(path) => format!(
            "--public-key {}: it has to hold Ed25519 public keys in PEM, as `bucket-av-scanner \
             receipt-key public` prints them",
            path.display()
        ),
        None => error,
    })?;
    if keys.is_empty() {
        return Err("no key: RECEIPT_TRUSTED_KEYS, RECEIPT_KEY or --public-key is required".into());
    }
    let store = Store::new(&settings.store, &settings.trust).await?;
    Ok((keys, store))
}

/// The standing of the object, and why. An error says why it cannot be found out.
async fn look(
    store: &Store,
    standings: &Standings<'_>,
    what: &Verify,
) -> Result<(Standing, String), String> {
    if let Some(key) = what.address.whole_key() {
        match store.identify(&what.address.bucket, &key, None).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(
                    "an object has this whole key, so what is meant is not clear: to mean \
                            that object, name its version too, ?versionId=null if it has none"
                        .to_owned(),
                );
            }
            Err(failure) => {
                return Err(format!("whether an object has this whole key: {failure}"));
            }
        }
    }
    let mut found = judge(store, standings, &what.address).await?;
    if !found.standing.is_accepted() {
        // The object may have been overwritten, or tagged, between the two requests.
        found = judge(store, standings, &what.address).await?;
    }
    let Judged { identity, standing, statement } = found;
    let (true, Some(statement)) = (standing.is_accepted(), &statement) else {
        return Ok((standing, because(standing, statement.as_ref())));
    };
    if what.download {
        match store.sha256_of(&identity).await {
            Ok(None) => return Err("it was overwritten meanwhile: try again".to_owned()),
            Ok(sha256) if sha256 == statement.sha256 => {}
            Ok(_) => {
                let line = "its bytes have another SHA-256 than the receipt says".to_owned();
                return Ok((Standing::Never, line));
            }
            Err(failure) => return Err(failure.to_string()),
        }
    }
    Ok((standing, because(standing, Some(statement))))
}

struct Judged {
    identity: Identity,
    standing: Standing,
    statement: Option<Statement>,
}

async fn judge(
    store: &Store,
    standings: &Standings<'_>,
    Address { bucket, key, version }: &Address,
) -> Result<Judged, String> {
    let identity = store.identify(bucket, key, version.as_deref()).await;
    let identity = identity.map_err(|failure| failure.to_string())?;
    let identity = identity.ok_or("there is no such object")?;
    let (standing, statement) = match store.tags_of(&identity).await {
        Ok(TagsSeen::Tags(tags)) => standings.of(&identity, &tags),
        Ok(TagsSeen::Gone) => return Err("it was removed meanwhile".to_owned()),
        Ok(TagsSeen::Unsupported) => {
            return Err("this store has no tags, so no object has a receipt".to_owned());
        }
        Err(failure) => return Err(failure.to_string()),
    };
    Ok(Judged { identity, standing, statement })
}

/// Why an object has this standing.
pub(super) fn because(standing: Standing, statement: Option<&Statement>) -> String {
    let says = |what: &str| match statement {
        Some(statement) => format!("{what} {}", describe(statement)),
        None => what.to_owned(),
    };
    match (standing, statement) {
        (Standing::Verified, _) => says("clean,"),
        (Standing::Released, _) => says("infected, and a person has released this finding:"),
        (Standing::Stale, Some(_)) => {
            says("its receipt says clean, and is too old, or binds nothing but an ETag:")
        }
        (Standing::Stale, None) => "its receipt names a key that is not trusted".to_owned(),
        (Standing::Never, _) => "no receipt is about these bytes".to_owned(),
        (Standing::Forged, _) => "its receipt is not signed by the key that it names".to_owned(),
        (Standing::Infected, _) => says("its receipt says infected,"),
        (Standing::Unscannable, _) => says("its receipt says that it could not be scanned,"),
        (Standing::Untaggable, _) => "it has too many other tags for a receipt".to_owned(),
    }
}

fn describe(Statement { began, database, sha256, finding, .. }: &Statement) -> String {
    let at = clock::rfc3339(clock::time_of(*began));
    let sha256 = sha256.as_ref().map(|text| format!(", sha256 {text}")).unwrap_or_default();
    match finding {
        // By the command that restored it, or by a scan since.
        Some(_) => format!("as of {at}{sha256}"),
        None => format!("scanned at {at} {}{sha256}", describe_database(database)),
    }
}

pub(super) fn describe_database(Database { version, date }: &Database) -> String {
    match (version.as_str(), date) {
        ("", _) => "by a database without a version".to_owned(),
        (version, Some(date)) => {
            let date = clock::rfc3339_of_seconds(*date);
            format!("by database {version} of {date}")
        }
        (version, None) => format!("by database {version}"),
    }
}

pub(super) fn since(age: Duration) -> Freshness {
    let since = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    Freshness::Since(clock::millis(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_bucket_key_and_version() {
        let address = |bucket: &str, key: &str, version: Option<&str>| Address {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: version.map(str::to_owned),
        };
        for (text, expected) in [
            ("s3://b/k", Some(address("b", "k", None))),
            ("s3://b/a/b c%20?x", Some(address("b", "a/b c%20?x", None))),
            ("s3://b/k?versionId=1", Some(address("b", "k", Some("1")))),
            ("s3://b//", Some(address("b", "/", None))),
            ("s3://b/k?versionId=1?versionId=2", Some(address("b", "k?versionId=1", Some("2")))),
            ("s3://b/", None),
            ("s3://b", None),
            ("s3:///k", None),
            ("s3://b/k?versionId=", None),
            ("http://b/k", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        assert_eq!(address("b", "\u{1b}[2J", None).to_string(), "s3://b/\\u{1b}[2J");
    }
}
