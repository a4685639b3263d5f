use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::*;

const TAG_KEY: &str = "scanned";

fn keys() -> Keys {
    let pem = SigningKey::generate().unwrap().to_pem().unwrap();
    Keys::new(Some(&pem), None).unwrap()
}

fn identity(version: Option<&str>, etag: &str, length: i64, modified: Option<i64>) -> Identity {
    let found = Identity::new("bucket", "a/key", version, Some(etag), Some(length));
    found.with_modified(modified.map(aws_smithy_types::DateTime::from_secs).as_ref())
}

fn unversioned() -> Identity {
    identity(None, "5d41402abc4b2a76b9719d911017c592", 5, Some(1_764_000_000))
}

fn clean() -> Statement {
    Statement {
        status: Status::Clean,
        began: 1_764_000_001_234,
        database: Database { version: "27812".to_owned(), date: Some(1_763_900_000) },
        sha256: Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned()),
        finding: None,
    }
}

fn signed(keys: &Keys, statement: &Statement, identity: &Identity) -> String {
    statement.sign(keys.signing().unwrap(), identity, true)
}

fn standing(
    keys: &Keys,
    freshness: Freshness,
    identity: &Identity,
    tags: &[(&str, &str)],
) -> Standing {
    let tags: Vec<_> = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Standings { keys, tag_key: TAG_KEY, freshness }.of(identity, &tags).0
}

#[test]
fn a_receipt_proves_its_statement_about_its_object() {
    let keys = keys();
    for identity in [
        unversioned(),
        identity(Some("v1"), "etag", 0, None),
        identity(Some("null"), "etag", 7, Some(1)),
    ] {
        let receipt = signed(&keys, &clean(), &identity);
        let found = check(&receipt, &keys, &identity);
        assert_eq!(found, Found::Valid { statement: clean(), by_etag_alone: false }, "{receipt}");
    }
    // Where the store changes the time with each tag.
    let receipt = clean().sign(keys.signing().unwrap(), &unversioned(), false);
    let found = check(&receipt, &keys, &unversioned());
    assert_eq!(found, Found::Valid { statement: clean(), by_etag_alone: true });
    let no = Statement { status: Status::No, sha256: None, ..clean() };
    let found = check(&signed(&keys, &no, &unversioned()), &keys, &unversioned());
    assert_eq!(found, Found::Valid { statement: no, by_etag_alone: false });
}

#[test]
fn it_proves_nothing_of_another_object() {
    let keys = keys();
    let of = |bucket: &str, key: &str, base: &Identity| {
        let mut other = base.clone();
        (other.bucket, other.key) = (bucket.to_owned(), key.to_owned());
        other
    };
    let one = unversioned();
    let receipt = signed(&keys, &clean(), &one);
    for other in [
        of("bucket", "a/key2", &one),
        of("bucket2", "a/key", &one),
        of("bucketa", "/key", &one),
        identity(None, "other", 5, Some(1_764_000_000)),
        identity(None, "5d41402abc4b2a76b9719d911017c592", 6, Some(1_764_000_000)),
        // Overwritten with bytes that have the same MD5 and length.
        identity(None, "5d41402abc4b2a76b9719d911017c592", 5, Some(1_764_000_001)),
        identity(None, "5d41402abc4b2a76b9719d911017c592", 5, None),
    ] {
        assert_eq!(check(&receipt, &keys, &other), Found::OfAnotherObject, "{other:?}");
        let standing = standing(&keys, Freshness::Any, &other, &[("scanned-receipt", &receipt)]);
        assert_eq!(standing, Standing::Never);
    }
    // The same object at another version, or without one.
    let version = identity(Some("v1"), "etag", 5, Some(1));
    let receipt = signed(&keys, &clean(), &version);
    for other in [identity(Some("v2"), "etag", 5, Some(1)), identity(None, "etag", 5, Some(1))] {
        assert_eq!(check(&receipt, &keys, &other), Found::OfAnotherObject, "{other:?}");
    }
}

#[test]
fn keys_that_are_not_trusted_prove_nothing() {
    let (ours, other) = (keys(), keys());
    let receipt = signed(&other, &clean(), &unversioned());
    assert_eq!(check(&receipt, &ours, &unversioned()), Found::OfAnUnknownKey);
    // Another key under the name of ours.
    let named = receipt.replace(other.signing().unwrap().id(), ours.signing().unwrap().id());
    assert_eq!(check(&named, &ours, &unversioned()), Found::Forged);
    // After a rotation.
    let public = other.signing().unwrap().public_pem().unwrap();
    let private = ours.signing().unwrap().to_pem().unwrap();
    let both = Keys::new(Some(&private), Some(&public)).unwrap();
    assert!(matches!(check(&receipt, &both, &unversioned()), Found::Valid { .. }));
    let verifier = Keys::new(None, Some(&public)).unwrap();
    assert!(verifier.signing().is_none() && !verifier.is_empty());
    assert!(matches!(check(&receipt, &verifier, &unversioned()), Found::Valid { .. }));
}

#[test]
fn keys_that_are_none_are_refused() {
    let key = SigningKey::generate().unwrap();
    let (private, public) = (key.to_pem().unwrap(), key.public_pem().unwrap());
    let broken = private.replacen("MC4", "MC5", 1);
    // RFC 5915, a key for another algorithm.
    let ec = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n";
    for text in ["", "x", public.as_str(), broken.as_str(), ec, &private[..40]] {
        assert_eq!(Keys::new(Some(text), None).unwrap_err(), KeyError::Private, "{text:?}");
    }
    let second = public.replacen("MCowBQYDK2VwAyEA", "MCowBQYDK2VxAyEA", 1);
    for text in ["", "x", private.as_str(), &second, &format!("{public}{second}")] {
        assert_eq!(Keys::new(None, Some(text)).unwrap_err(), KeyError::Public, "{text:?}");
    }
    assert!(Keys::new(None, Some(&public.repeat(3))).is_ok());
    assert!(Keys::new(None, None).unwrap().is_empty());
    assert!(!format!("{key:?}").contains(private.lines().nth(1).unwrap()));
}

/// The keys, the message and the signature of RFC 8032, section 7.1, test 1, and a key that openssl
/// 3.0 made (`openssl genpkey -algorithm ed25519`).
#[test]
fn keys_and_signatures_are_those_of_others() {
    let seed =
        hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
    let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
    der.extend(seed);
    let body = BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    let keys = Keys::new(Some(&pem), None).unwrap();
    let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac\
                     c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
    assert_eq!(hex::encode(keys.signing().unwrap().sign(b"")), signature);
    let public = "-----BEGIN PUBLIC KEY-----\n\
                  MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                  -----END PUBLIC KEY-----\n";
    assert_eq!(keys.signing().unwrap().public_pem().unwrap(), public);
    assert_eq!(keys.signing().unwrap().to_pem().unwrap(), pem);
}

#[test]
fn the_whole_table_of_standings() {
    use Standing::{Forged, Infected, Never, Stale, Unscannable, Untaggable, Verified};
    let keys = keys();
    let one = unversioned();
    let sign = |statement: Statement| signed(&keys, &statement, &one);
    let of = |status| sign(Statement { status, ..clean() });
    let good = of(Status::Clean);
    let unread = sign(Statement { sha256: None, ..clean() });
    let by_etag = clean().sign(keys.signing().unwrap(), &one, false);
    let (infected, no) = (of(Status::Infected), of(Status::No));
    let unknown = signed(&self::keys(), &clean(), &one);
    let database = |version: &str| {
        Freshness::Database(Database { version: version.to_owned(), date: Some(1) })
    };
    let same = Freshness::Database(clean().database);
    for (receipt, freshness, expected) in [
        (&good, Freshness::Any, Verified),
        (&good, same, Verified),
        (&good, database("27811"), Verified),
        (&good, database("27813"), Stale),
        (&good, Freshness::Since(clean().began), Verified),
        (&good, Freshness::Since(clean().began + 1), Stale),
        (&by_etag, Freshness::Any, Stale),
        (&unknown, Freshness::Any, Stale),
        (&unread, Freshness::Any, Never),
        (&infected, database("27813"), Infected),
        (&no, database("27813"), Unscannable),
        (&"clean".to_owned(), Freshness::Any, Forged),
        (&String::new(), Freshness::Any, Forged),
    ] {
        let tags = [("scanned", "clean"), ("scanned-receipt", receipt.as_str())];
        assert_eq!(standing(&keys, freshness, &one, &tags), expected, "{receipt}");
    }
    // A status alone proves nothing.
    assert_eq!(standing(&keys, Freshness::Any, &one, &[("scanned", "clean")]), Never);
    let others: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    for (count, expected) in [(0, Never), (8, Never), (9, Untaggable), (10, Untaggable)] {
        let tags: Vec<_> = others[..count].iter().map(|key| (key.as_str(), "x")).collect();
        assert_eq!(standing(&keys, Freshness::Any, &one, &tags), expected, "{count}");
    }
}

#[test]
fn a_later_scan_or_a_newer_database_stays() {
    let at = |began, version: &str| Statement {
        began,
        database: Database { version: version.to_owned(), date: None },
        ..clean()
    };
    for (on_it, new, stays) in [
        (at(10, "5"), at(9, "5"), true),
        (at(10, "5"), at(10, "5"), false),
        (at(10, "5"), at(11, "5"), false),
        (at(10, "6"), at(11, "5"), true),
        (at(10, "10"), at(11, "9"), true),
        (at(10, "6"), at(11, ""), false),
        (at(10, ""), at(11, "6"), false),
        // By a clock that is ahead.
        (at(101, "5"), at(9, "5"), false),
    ] {
        assert_eq!(on_it.outranks(&new, 100), stays, "{on_it:?} {new:?}");
    }
}

#[test]
fn databases_fit_into_a_receipt() {
    let date = Some(time::OffsetDateTime::from_unix_timestamp(1_763_900_000).unwrap());
    let version =
        |text: &str| Version { engine: None, database: Some(text.to_owned()), database_date: date };
    assert_eq!(Database::from(&version("27812")).to_string(), "27812@1763900000");
    let odd = Database::from(&version(&format!("a:@ é\n{}", "7".repeat(99))));
    assert!(odd.to_string().len() <= MAX_DATABASE, "{odd}");
    assert_eq!(odd.to_string().parse(), Ok(odd.clone()));
    let longest = Statement {
        status: Status::Infected,
        began: i64::from(u32::MAX) * 1000,
        database: odd,
        ..clean()
    };
    let receipt = signed(&keys(), &longest, &unversioned());
    assert!(receipt.len() <= 256, "{}", receipt.len());
}

proptest! {
    /// Whoever changes a receipt has none.
    #[test]
    fn no_changed_receipt_is_valid(at in 0..1000_usize, to in "[ -~é]", cut in any::<bool>()) {
        let keys = keys();
        let receipt = signed(&keys, &clean(), &unversioned());
        let at = at % receipt.len();
        let rest = if cut { "" } else { &receipt[at + 1..] };
        let changed = format!("{}{to}{rest}", &receipt[..at]);
        prop_assume!(changed != receipt);
        let found = check(&changed, &keys, &unversioned());
        prop_assert!(matches!(found, Found::Forged | Found::OfAnUnknownKey), "{changed} {found:?}");
        let standing = standing(&keys, Freshness::Any, &unversioned(), &[("scanned-receipt", &changed)]);
        prop_assert!(matches!(standing, Standing::Forged | Standing::Stale));
    }

    /// Only the alphabet of S3's tags.
    #[test]
    fn receipts_are_tag_values(
        bucket in ".*", key in ".*", etag in ".+", version in proptest::option::of(".*"),
        database in ".*", length in any::<i64>(), modified in any::<i64>(),
    ) {
        let keys = keys();
        let found = Identity::new(&bucket, &key, version.as_deref(), Some(&etag), Some(length));
        let found = found.with_modified(Some(&aws_smithy_types::DateTime::from_secs(modified)));
        prop_assume!(found.pin != crate::store::Pin::Nothing);
        let version = Version { engine: None, database: Some(database), database_date: None };
        let statement = Statement { database: Database::from(&version), ..clean() };
        let receipt = signed(&keys, &statement, &found);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+-=._:/@".contains(c);
        prop_assert!(receipt.chars().all(allowed) && receipt.len() <= 256, "{}", receipt);
        let valid = matches!(check(&receipt, &keys, &found), Found::Valid { .. });
        prop_assert!(valid);
    }

    /// Arbitrary text is no receipt and no panic.
    #[test]
    fn garbage_is_forged(text in ".*") {
        let valid = matches!(check(&text, &keys(), &unversioned()), Found::Valid { .. });
        prop_assert!(!valid);
    }
}

const FINDING: &str = "Win.Test.EICAR_HDB-1";
const OF_BYTES: &str = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f";

fn release() -> Statement {
    Statement::release(OF_BYTES, FINDING, 1_764_000_001_234)
}

fn in_tags(receipt: &str) -> Vec<(String, String)> {
    vec![("scanned-receipt".to_owned(), receipt.to_owned())]
}

#[test]
fn a_release_is_about_one_finding_in_one_content_under_one_name() {
    let keys = keys();
    let named = release().sign_for_name(keys.signing().unwrap(), "bucket", "a/key");
    let tied = signed(&keys, &release(), &unversioned());
    let stated = |keys: &Keys, receipt: &str, identity: &Identity| {
        statement_of(&in_tags(receipt), "scanned-receipt", keys, identity)
    };
    for receipt in [&named, &tied] {
        let statement = stated(&keys, receipt, &unversioned()).unwrap();
        assert_eq!(statement, release());
        assert!(statement.releases(OF_BYTES, FINDING));
        assert!(!statement.releases(OF_BYTES, "Win.Test.EICAR_HDB-2"));
        assert!(!statement.releases(OF_BYTES, ""));
        assert!(!statement.releases(&OF_BYTES.replace('2', "3"), FINDING));
        // Under another name, or by another key.
        let mut other = unversioned();
        other.key = "a/key2".to_owned();
        assert_eq!(stated(&keys, receipt, &other), None);
        let mut other = unversioned();
        (other.bucket, other.key) = ("bucketa".to_owned(), "/key".to_owned());
        assert_eq!(stated(&keys, receipt, &other), None);
        assert_eq!(stated(&self::keys(), receipt, &unversioned()), None);
        assert!(receipt.len() <= 256, "{receipt}");
    }
    // Tied to its bytes it is about no other ones, also of the same name.
    let other = identity(None, "other", 5, Some(1_764_000_000));
    assert!(stated(&keys, &named, &other).is_some());
    assert_eq!(stated(&keys, &tied, &other), None);
    // Written long after it was signed, or at a time that nobody knows.
    for modified in [None, Some(1_764_000_000 + 7_300), Some(1_764_000_000 - 7_300)] {
        let later = identity(None, "5d41402abc4b2a76b9719d911017c592", 5, modified);
        assert_eq!(stated(&keys, &named, &later), None);
    }
    // A verdict releases nothing, whatever it says.
    for status in [Status::Clean, Status::Infected, Status::No] {
        let verdict = Statement { status, finding: None, ..release() };
        assert!(!verdict.releases(OF_BYTES, FINDING));
    }
}

#[test]
fn a_release_stands_for_an_object_once_it_is_tied_to_its_bytes() {
    let keys = keys();
    let named = release().sign_for_name(keys.signing().unwrap(), "bucket", "a/key");
    let tied = signed(&keys, &release(), &unversioned());
    let by_etag = release().sign(keys.signing().unwrap(), &unversioned(), false);
    let current = Freshness::Database(Database { version: "27813".to_owned(), date: None });
    for (receipt, expected) in
        [(&named, Standing::Never), (&tied, Standing::Released), (&by_etag, Standing::Stale)]
    {
        let tags = [("scanned", "released"), ("scanned-receipt", receipt.as_str())];
        assert_eq!(standing(&keys, current.clone(), &unversioned(), &tags), expected, "{receipt}");
    }
    let claim = standing(&keys, Freshness::Any, &unversioned(), &[("scanned", "released")]);
    assert_eq!(claim, Standing::Never);
}

#[test]
fn a_release_takes_back_no_other_verdict() {
    let now = i64::MAX;
    for status in [Status::Clean, Status::Infected, Status::No] {
        let earlier = Statement { status, began: 1, database: Database::default(), ..clean() };
        assert!(earlier.outranks(&release(), now), "{status}");
    }
    let earlier = Statement { began: 1, ..release() };
    assert!(!earlier.outranks(&release(), now));
}

#[test]
fn nothing_but_a_release_is_signed_for_a_name_alone() {
    let keys = keys();
    let named = clean().sign_for_name(keys.signing().unwrap(), "bucket", "a/key");
    assert_eq!(check(&named, &keys, &unversioned()), Found::Forged);
}

proptest! {
    /// A release that was changed in one place releases nothing.
    #[test]
    fn a_changed_release_is_none(at in 0..1000_usize, to in "[ -~]") {
        let keys = keys();
        let named = release().sign_for_name(keys.signing().unwrap(), "bucket", "a/key");
        let at = at % named.len();
        let changed = format!("{}{to}{}", &named[..at], &named[at + 1..]);
        prop_assume!(changed != named);
        let stated = statement_of(&in_tags(&changed), "scanned-receipt", &keys, &unversioned());
        prop_assert_eq!(stated, None);
    }
}
