//! Which object a key names. MinIO and AWS form-encode the key of a record, Ceph writes it raw,
//! and nothing in the record says which.

use percent_encoding::percent_decode_str;

/// The possible spellings of a record's key, the likeliest first, without repetition.
///
/// `raw_path` is MinIO's top-level `Key`: `bucket/key`, not encoded. It settles the matter where it
/// fits the record.
pub(super) fn spellings(bucket: &str, key: &str, raw_path: Option<&str>) -> Vec<String> {
    let decoded = form_decode(key);
    let told = raw_path.and_then(|path| path.strip_prefix(bucket)?.strip_prefix('/'));
    if let Some(told) = told
        && (told == key || decoded.as_deref() == Some(told))
    {
        return vec![told.to_owned()];
    }
    let mut spellings: Vec<String> = Vec::with_capacity(2);
    for spelling in decoded.into_iter().chain([key.to_owned()]) {
        if !spellings.contains(&spelling) {
            spellings.push(spelling);
        }
    }
    spellings
}

/// `+` is a space, and it is replaced before `%2B` becomes a plus. `None` when what comes out is not
/// text: then the key was not encoded.
fn form_decode(key: &str) -> Option<String> {
    let spaced = key.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    (!decoded.is_empty()).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The encoding of Go's `url.QueryEscape`, which MinIO uses.
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
        fn an_encoded_key_comes_back_first(key in "\\PC{1,60}") {
            let spellings = spellings("b", &query_escape(&key), None);
            prop_assert_eq!(&spellings[0], &key);
        }

        #[test]
        fn the_raw_path_settles_the_key_whether_the_record_is_encoded_or_raw(key in "\\PC{1,60}") {
            let path = format!("b/{key}");
            prop_assert_eq!(spellings("b", &query_escape(&key), Some(&path)), vec![key.clone()]);
            prop_assert_eq!(spellings("b", &key, Some(&path)), vec![key]);
        }

        #[test]
        fn the_key_as_written_is_always_among_the_spellings(key in "\\PC{1,60}") {
            let spellings = spellings("b", &key, None);
            prop_assert!(spellings.contains(&key));
            prop_assert!(spellings.len() <= 2 && spellings.iter().all(|k| !k.is_empty()));
        }
    }

    #[test]
    fn a_plus_is_a_space_and_an_encoded_plus_is_a_plus() {
        assert_eq!(spellings("b", "a+b%2Bc", None), ["a b+c", "a+b%2Bc"]);
    }

    #[test]
    fn a_plain_key_has_one_spelling() {
        assert_eq!(spellings("b", "a/b-c.txt", None), ["a/b-c.txt"]);
    }

    #[test]
    fn bytes_that_are_no_text_mean_that_the_key_was_not_encoded() {
        assert_eq!(spellings("b", "100%ff", None), ["100%ff"]);
    }

    #[test]
    fn a_raw_path_of_something_else_is_not_believed() {
        assert_eq!(spellings("b", "a+b", Some("b/other")), ["a b", "a+b"]);
        assert_eq!(spellings("b", "a+b", Some("bb/a+b")), ["a b", "a+b"]);
    }
}
