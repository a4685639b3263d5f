//! Keys that the SDK refuses to send.
//!
//! The SDK treats a blank key as a missing one. Stores accept blank keys, so an upload could hide
//! under one. Such a key is given to the SDK with a mark in front, and the mark is removed from the
//! request before it is signed.

use std::borrow::Cow;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;

/// Needs no encoding in a URL and cannot be in a bucket's name. A key that contains it is marked as
/// well.
const MARK: &str = "~avscan-marked~";
/// The longest key that S3 has, in bytes.
pub(crate) const MAX_KEY: usize = 1024;

/// The key as it is given to the SDK: marked if the SDK would refuse it.
pub(super) fn for_sdk(key: &str) -> Cow<'_, str> {
    if key.trim().is_empty() || key.contains(MARK) {
        return format!("{MARK}{key}").into();
    }
    key.into()
}

/// Removes the mark from requests.
#[derive(Debug)]
pub(super) struct Unmark;

impl Intercept for Unmark {
    fn name(&self) -> &'static str {
        "Unmark"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let unmarked = unmarked(request.uri());
        if let Some(unmarked) = unmarked {
            request.set_uri(unmarked)?;
        }
        Ok(())
    }
}

/// The address without the mark; `None` if the key is not marked. The first mark in the path is
/// ours: a key that contains one itself has ours in front.
fn unmarked(uri: &str) -> Option<String> {
    let (path, query) =
        uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    let at = path.find(&format!("/{MARK}"))? + 1;
    let path = [&path[..at], &path[at + MARK.len()..]].concat();
    Some(query.map_or(path.clone(), |query| format!("{path}?{query}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_and_marked_keys_come_out_of_the_request_as_they_are() {
        let mark = MARK;
        let (once, twice) = (format!("{mark}x"), format!("{mark}{mark}"));
        let within = format!("dir/{mark}x");
        for (key, encoded) in [
            ("a b", "a%20b"),
            (" ", "%20"),
            ("\u{b}\u{3000}", "%0B%E3%80%80"),
            (once.as_str(), once.as_str()),
            (twice.as_str(), twice.as_str()),
            (within.as_str(), within.as_str()),
        ] {
            let for_sdk = for_sdk(key);
            let is_marked = for_sdk.len() > key.len();
            let sent = if is_marked { format!("{mark}{encoded}") } else { encoded.to_owned() };
            for query in ["", "?tagging", "?versionId=/~avscan-marked~"] {
                let uri = format!("http://h/b/{sent}{query}");
                let expected = is_marked.then(|| format!("http://h/b/{encoded}{query}"));
                assert_eq!(unmarked(&uri), expected, "{key:?}");
            }
        }
    }
}
