//! Notifications of the store about new objects, as they arrive in the broker's queue.

use std::fmt::Write;

use serde_json::{Value, json};

/// A `MinIO` notification about one new object.
///
/// `size` and `etag` are left out when they are `None`: `MinIO` leaves out what it does not know.
#[must_use]
pub fn put(bucket: &str, key: &str, size: Option<u64>, etag: Option<&str>) -> Value {
    event("s3:ObjectCreated:Put", bucket, key, size, etag)
}

/// As [`put`], with any event name.
#[must_use]
pub fn event(name: &str, bucket: &str, key: &str, size: Option<u64>, etag: Option<&str>) -> Value {
    let mut object = json!({"key": form_encoded(key), "sequencer": "1A2B3C4D5E6F7A8B"});
    if let Some(size) = size {
        object["size"] = size.into();
    }
    if let Some(etag) = etag {
        object["eTag"] = etag.trim_matches('"').into();
    }
    json!({
        "EventName": name,
        "Key": format!("{bucket}/{key}"),
        "Records": [{
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "awsRegion": "",
            "eventTime": "2026-01-01T00:00:00.000Z",
            "eventName": name,
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "Config",
                "bucket": {"name": bucket, "arn": format!("arn:aws:s3:::{bucket}")},
                "object": object,
            },
        }],
    })
}

/// A key as `MinIO` writes it into a record: form encoding, slashes included.
#[must_use]
pub fn form_encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(byte.into());
            }
            b' ' => text.push('+'),
            _ => write!(text, "%{byte:02X}").expect("a string takes every write"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_form_encoded() {
        assert_eq!(form_encoded("a b+c/%20 é"), "a+b%2Bc%2F%2520+%C3%A9");
    }
}
