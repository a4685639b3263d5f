//! Whether a request may come in.

use hyper::header::HeaderValue;
use secrecy::ExposeSecret;
use subtle::{Choice, ConstantTimeEq};

use crate::config::Secret;

/// Whether the `Authorization` header carries one of the tokens, which are separated by blanks.
///
/// The scheme `Bearer` is that of RFC 6750. MinIO and RustFS send a token without a scheme when they
/// are given one word. Every token is compared whole, in a time that depends on lengths alone.
pub(super) fn is_valid(header: Option<&HeaderValue>, tokens: &Secret) -> bool {
    let Some(header) = header else { return false };
    let presented = credential(header.as_bytes());
    let tokens = tokens.held();
    let same = |token: &str| token.as_bytes().ct_eq(presented);
    let found = tokens.expose_secret().split_ascii_whitespace().map(same);
    !presented.is_empty() && bool::from(found.fold(Choice::from(0), |any, one| any | one))
}

/// What follows the scheme, or all of it. RFC 9110: the scheme's case does not matter.
fn credential(header: &[u8]) -> &[u8] {
    let header = header.trim_ascii();
    match header.split_at_checked(6) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(b"bearer") && rest.starts_with(b" ") =>
        {
            rest.trim_ascii_start()
        }
        _ => header,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole() {
        let tokens = Secret::from("first-token  second-token");
        let valid =
            |text: &'static [u8]| is_valid(HeaderValue::from_bytes(text).ok().as_ref(), &tokens);
        for good in
            ["Bearer first-token", "bearer  second-token", "BEARER first-token", "first-token"]
        {
            assert!(valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer first",
            "first-token second-token",
            "Basic first-token",
            "Bearer first-token x",
            "Bearerfirst-token",
            "first-tokens",
            "Bearer Bearer first-token",
        ] {
            assert!(!valid(bad.as_bytes()), "{bad}");
        }
        assert!(!valid(b"Bearer \xff"));
        assert!(!is_valid(None, &tokens));
    }
}
