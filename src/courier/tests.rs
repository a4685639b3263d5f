use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use sha2::{Digest, Sha256};

use super::*;

fn judged(status: u16, pause: Option<&str>) -> Judgement {
    let mut headers = HeaderMap::new();
    if let Some(pause) = pause {
        headers.insert(RETRY_AFTER, HeaderValue::from_str(pause).unwrap());
    }
    judge(StatusCode::from_u16(status).unwrap(), &headers, false)
}

#[test]
fn only_what_concerns_the_report_itself_parks_it() {
    for status in [200, 201, 202, 204] {
        assert_eq!(judged(status, None), Judgement::Delivered);
    }
    for status in [400, 413, 422] {
        assert!(matches!(judged(status, None), Judgement::Rejected(_)), "{status}");
    }
    for status in [401, 407, 429] {
        assert!(matches!(judged(status, None), Judgement::Down(None, _)), "{status}");
    }
    for status in [301, 307, 403, 404, 405, 406, 408, 409, 415, 451, 500, 502, 503, 504] {
        assert!(matches!(judged(status, None), Judgement::Refused(_)), "{status}");
    }
    assert!(matches!(judged(410, None), Judgement::Gone(_)));
}

#[test]
fn a_conflict_means_delivered_only_for_a_report_that_was_sent_before() {
    let conflict = |repeated| judge(StatusCode::CONFLICT, &HeaderMap::new(), repeated);
    assert_eq!(conflict(true), Judgement::Delivered);
    assert!(matches!(conflict(false), Judgement::Refused(_)));
}

#[test]
fn a_refusal_concerns_one_report_when_others_are_taken_and_all_when_none_is() {
    use Concerned::{AllReports, ThisReport, Unknown};
    let s = Duration::from_secs;
    for (waited, last_accepted, refused, gone, expected) in [
        // A first refusal shows nothing.
        (None, Some(s(0)), 1, false, Unknown),
        (None, None, 1, false, Unknown),
        (None, None, 2, false, Unknown),
        // Accepted in between, however many are refused by now.
        (Some(s(10)), Some(s(9)), 1, false, ThisReport),
        (Some(s(10)), Some(s(9)), 3, false, ThisReport),
        (Some(s(600)), Some(s(500)), 3, true, ThisReport),
        // None accepted in between: not counted against the report.
        (Some(s(10)), Some(s(10)), 1, false, Unknown),
        (Some(s(10)), None, 2, false, Unknown),
        // Several, and none accepted for a while.
        (None, None, 3, false, AllReports),
        (Some(s(10)), Some(s(11)), 3, false, AllReports),
        (None, Some(s(2)), 3, false, Unknown),
        (None, Some(s(3)), 3, false, AllReports),
        // 410 needs no second report, but more time.
        (None, None, 1, true, AllReports),
        (None, Some(s(59)), 3, true, Unknown),
        (None, Some(s(60)), 1, true, AllReports),
    ] {
        let refusal = Refusal { waited, last_accepted, refused, gone };
        assert_eq!(concerns(refusal), expected, "{refusal:?}");
    }
}

#[test]
fn retry_after_is_honoured_up_to_a_cap() {
    let pause = |value| match judged(429, Some(value)) {
        Judgement::Down(pause, _) => pause,
        other => panic!("{other:?}"),
    };
    assert_eq!(pause("7"), Some(Duration::from_secs(7)));
    assert_eq!(pause("999999"), Some(MAX_PAUSE));
    assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
    assert_eq!(pause("Mon, 21 Oct 2115 07:28:00 GMT"), Some(MAX_PAUSE));
    // The obsolete forms, which RFC 9110, 5.6.7 still requires.
    assert_eq!(pause("Wednesday, 21-Oct-15 07:28:00 GMT"), Some(Duration::ZERO));
    assert_eq!(pause("Wed Oct 21 07:28:00 2015"), Some(Duration::ZERO));
    assert_eq!(pause("soon"), None);
    assert!(matches!(judged(503, Some("5")), Judgement::Down(Some(_), _)));
}

#[test]
fn a_report_is_signed_as_the_specification_says() {
    let settings = PublishSettings {
        url: "http://127.0.0.1:1/".parse().unwrap(),
        secret: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
        authorization: Some("Bearer t".into()),
    };
    let courier = Courier::new(&settings, &Trust::default()).unwrap();
    let headers = headers("msg_1", b"{\"a\":1}", &courier.secrets()).unwrap();
    assert_eq!(headers["webhook-id"], "msg_1");
    assert_eq!(headers[AUTHORIZATION], "Bearer t");
    let timestamp = headers["webhook-timestamp"].to_str().unwrap();
    let signed = format!("msg_1.{timestamp}.{{\"a\":1}}");
    let expected = format!("v1,{}", BASE64.encode(hmac_sha256(SECRET, signed.as_bytes())));
    assert_eq!(headers["webhook-signature"].to_str().unwrap(), expected);
}

#[test]
fn each_of_several_secrets_signs() {
    let sign = |secret: &str| {
        let settings = PublishSettings {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            secret: Some(secret.into()),
            authorization: None,
        };
        let courier = Courier::new(&settings, &Trust::default()).unwrap();
        let headers = headers("msg_1", b"{}", &courier.secrets()).unwrap();
        let text = |name| headers[name].to_str().unwrap().to_owned();
        (text("webhook-timestamp"), text("webhook-signature"))
    };
    let old = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let new = BASE64.encode([7; 32]);
    let (timestamp, signatures) = sign(&format!(" {old} {new}\n"));
    let signed = format!("msg_1.{timestamp}.{{}}");
    let expected = [SECRET, &[7; 32]]
        .map(|secret| format!("v1,{}", BASE64.encode(hmac_sha256(secret, signed.as_bytes()))));
    assert_eq!(signatures, expected.join(" "));
}

/// The bytes of the secret above.
const SECRET: &[u8] = &[
    0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08, 0x2c,
    0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0,
];

/// RFC 2104, so that the signature is not checked by the crate that made it.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = Sha256::digest([&pad(0x36), message].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}
