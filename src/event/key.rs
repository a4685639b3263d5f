//! Which object a record's key names. MinIO and AWS form-encode the key, Ceph does not.

use percent_encoding::percent_decode_str;

/// EventBridge's name for S3. Its keys are not encoded.
pub(super) const EVENT_BRIDGE: &str = "aws.s3";
/// What our records of filer events have as `eventSource`. A filer knows paths, which are raw.
pub(super) const FILER: &str = "seaweedfs:filer";
/// The `eventSource` of records whose keys are not encoded. Source for Ceph: 354 records of a real
/// one, all with this value and with keys that were not encoded.
const RAW_SOURCES: &[&str] = &["ceph:s3", EVENT_BRIDGE, FILER];
/// The `eventSource` of stores that encode keys. Source: code of MinIO and RustFS. AWS encodes too,
/// but `aws:s3` is also sent by stores that do not (VersityGW).
const ENCODING_SOURCES: &[&str] = &["minio:s3", "rustfs:s3"];

/// The key of a record, and the decoded key as a second possibility when the record does not tell
/// which one is meant.
///
/// `raw_path` is MinIO's top-level `Key`: `bucket/key`, not encoded. It decides where it agrees
/// with the record; else `source` does, the record's `eventSource`.
pub(super) fn spellings(
    bucket: &str,
    key: &str,
    raw_path: Option<&str>,
    source: Option<&str>,
) -> (String, Option<String>) {
    let decoded = form_decode(key);
    let raw = raw_path.and_then(|path| path.strip_prefix(bucket)?.strip_prefix('/'));
    let is = |sources: &[&str]| source.is_some_and(|source| sources.contains(&source));
    match (raw, decoded) {
        (Some(raw), decoded) if raw == key || decoded.as_deref() == Some(raw) => {
            (raw.to_owned(), None)
        }
        (_, Some(decoded)) if is(ENCODING_SOURCES) => (decoded, None),
        (_, Some(decoded)) if decoded != key && !is(RAW_SOURCES) => (key.to_owned(), Some(decoded)),
        _ => (key.to_owned(), None),
    }
}

/// Decodes a form-encoded key; `+` is a space. `None` when the result is empty or not UTF-8: then
/// the key was not encoded.
fn form_decode(key: &str) -> Option<String> {
    // Before decoding, so that `%2B` stays a plus.
    let spaced = key.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes as Go's `url.QueryEscape`, which MinIO uses.
    fn query_escape(key: &str) -> String {
        use std::fmt::Write;
        let mut escaped = String::new();
        for byte in key.bytes() {
            match byte {
                b' ' => escaped.push('+'),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    escaped.push(char::from(byte));
                }
                _ => write!(escaped, "%{byte:02X}").unwrap(),
            }
        }
        escaped
    }

    proptest! {
        #[test]
        fn an_encoded_key_can_come_back_decoded(key in "\\PC{1,60}") {
            let (written, decoded) = spellings("b", &query_escape(&key), None, None);
            prop_assert_eq!(decoded.unwrap_or(written), key);
        }

        #[test]
        fn the_raw_path_settles_the_key_whether_the_record_is_encoded_or_raw(key in "\\PC{1,60}") {
            let path = format!("b/{key}");
            for written in [&query_escape(&key), &key] {
                let settled = (key.clone(), None);
                prop_assert_eq!(spellings("b", written, Some(&path), None), settled);
            }
        }

        #[test]
        fn the_source_settles_the_key_where_it_is_known(key in "\\PC{1,60}") {
            let settled = (key.clone(), None);
            prop_assert_eq!(&spellings("b", &key, None, Some("ceph:s3")), &settled);
            prop_assert_eq!(spellings("b", &query_escape(&key), None, Some("minio:s3")), settled);
        }
    }

    fn open(key: &str, raw_path: Option<&str>) -> (String, Option<String>) {
        spellings("b", key, raw_path, Some("aws:s3"))
    }

    #[test]
    fn a_plus_is_a_space_and_an_encoded_plus_is_a_plus() {
        assert_eq!(open("a+b%2Bc", None), ("a+b%2Bc".to_owned(), Some("a b+c".to_owned())));
    }

    #[test]
    fn a_plain_key_has_one_spelling() {
        assert_eq!(open("a/b-c.txt", None), ("a/b-c.txt".to_owned(), None));
    }

    #[test]
    fn bytes_that_are_no_text_mean_that_the_key_was_not_encoded() {
        assert_eq!(open("100%ff", None), ("100%ff".to_owned(), None));
    }

    #[test]
    fn a_raw_path_of_something_else_is_not_believed() {
        let both = ("a+b".to_owned(), Some("a b".to_owned()));
        assert_eq!(open("a+b", Some("b/other")), both);
        assert_eq!(open("a+b", Some("bb/a+b")), both);
    }
}
