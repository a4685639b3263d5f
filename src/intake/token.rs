//! Whether a request may come in.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use hyper::header::HeaderValue;
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use crate::config::Secret;

/// Whether the `Authorization` header carries one of the tokens, which are separated by blanks.
///
/// - `Bearer TOKEN`: RFC 6750;
/// - `Basic`, with the token as the password of any user (RFC 7617): Ceph and `VersityGW` can send
///   nothing but what is in the endpoint's URL;
/// - the bare token: MinIO and `RustFS`, when they are given one word.
///
/// Every token is compared whole, in a time that depends on lengths alone.
pub(super) fn is_valid(header: Option<&HeaderValue>, tokens: &Secret) -> bool {
    let Some(presented) = header.and_then(|header| credential(header.as_bytes())) else {
        return false;
    };
    let tokens = tokens.held();
    let same = |token: &str| token.as_bytes().ct_eq(&presented);
    let found = tokens.expose_secret().split_ascii_whitespace().map(same);
    bool::from(found.fold(Choice::from(0), |any, one| any | one))
}

/// The token of the header; `None` where there cannot be one. RFC 9110: the scheme's case does not
/// matter.
fn credential(header: &[u8]) -> Option<Cow<'_, [u8]>> {
    let header = header.trim_ascii();
    let Some(at) = header.iter().position(|byte| *byte == b' ') else {
        return (!header.is_empty()).then_some(Cow::Borrowed(header));
    };
    let (scheme, rest) = (&header[..at], header[at..].trim_ascii_start());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Cow::Borrowed(rest));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let login = BASE64.decode(rest).ok()?;
    // A user name has no colon.
    let colon = login.iter().position(|byte| *byte == b':')?;
    Some(Cow::Owned(login[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole() {
        let tokens = Secret::from("first-token  second:token");
        let valid = |text: &[u8]| is_valid(HeaderValue::from_bytes(text).ok().as_ref(), &tokens);
        let basic = |login: &str| format!("Basic {}", BASE64.encode(login));
        for good in [
            "Bearer first-token",
            "bearer  second:token",
            "BEARER first-token",
            "first-token",
            &basic("anybody:first-token"),
            &basic(":second:token"),
            &basic("u:first-token").replace("Basic", "BASIC "),
        ] {
            assert!(valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer first",
            "first-token second:token",
            "Basic first-token",
            "Basic",
            "Digest first-token",
            "Bearer first-token x",
            "Bearerfirst-token",
            "first-tokens",
            "Bearer Bearer first-token",
            &basic("first-token"),
            &basic("first-token:"),
            &basic("first-token:x"),
            &basic("u:first-token "),
            &basic("u:u:first-token"),
            &basic("u:"),
        ] {
            assert!(!valid(bad.as_bytes()), "{bad}");
        }
        assert!(!valid(b"Bearer \xff"));
        assert!(!is_valid(None, &tokens));
    }
}
