//! Messages of a sweep about one object that was there before.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Malformed, Notification, ObjectRef, exact, parse};

/// What a message of a sweep says of the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Swept {
    /// The sweep.
    #[serde(rename = "id")]
    pub(crate) sweep: Uuid,
    /// When it began, in milliseconds since 1970. A scan that began later need not be repeated.
    pub(crate) began: i64,
}

#[derive(Deserialize)]
struct Message {
    sweep: Swept,
}

/// The body of the message by which a sweep announces an object. `event_time` should be the
/// `Last-Modified` of the list, and the size must be its size: a receipt may be about both.
///
/// A notification as `MinIO` sends it, with a field that none has. The id of the sweep stands for the
/// store's sequence number, so that the reports of two sweeps about one object have different ids.
pub(crate) fn swept(sweep: Swept, object: &ObjectRef) -> Vec<u8> {
    let object = ObjectRef { sequencer: Some(sweep.sweep.to_string()), ..object.clone() };
    let mut message: Value = serde_json::from_slice(&exact(b"", &object, None)).unwrap_or_default();
    if let (Value::Object(fields), Ok(sweep)) = (&mut message, serde_json::to_value(sweep)) {
        fields.insert("sweep".to_owned(), sweep);
    }
    message.to_string().into_bytes()
}

/// Reads the message of a sweep.
///
/// # Errors
/// [`Malformed`] for everything that [`swept`] does not write.
pub(crate) fn parse_swept(body: &[u8]) -> Result<(Swept, ObjectRef), Malformed> {
    let Message { sweep } = serde_json::from_slice(body).map_err(|_| Malformed::NotSwept)?;
    match parse(body)? {
        Notification::Object(object) if !object.uncovered => Ok((sweep, *object)),
        _ => Err(Malformed::NotSwept),
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn sweep() -> Swept {
        Swept { sweep: Uuid::from_u128(7), began: 1_764_000_000_123 }
    }

    fn object(key: &str) -> ObjectRef {
        ObjectRef {
            bucket: "b".to_owned(),
            key: key.to_owned(),
            version_id: None,
            uncovered: false,
            etag: None,
            size: None,
            sequencer: Some(sweep().sweep.to_string()),
            event_time: None,
            file: None,
        }
    }

    proptest! {
        #[test]
        fn what_a_sweep_announces_is_read_as_it_was_meant(
            key in "\\PC{1,60}",
            version_id in option::of("null|[a-zA-Z0-9._-]{1,40}"),
            etag in option::of("[0-9a-f]{32}(-[0-9]{1,3})?"),
            size: Option<u64>,
            dated: bool,
        ) {
            let event_time = dated.then(|| "2026-11-28T20:00:01Z".to_owned());
            let object = ObjectRef { version_id, etag, size, event_time, ..object(&key) };
            let body = swept(sweep(), &object);
            prop_assert_eq!(parse_swept(&body), Ok((sweep(), object.clone())));
            // In the queue of notifications it is one like any other.
            let Ok(Notification::Object(announced)) = parse(&body) else { panic!("none") };
            prop_assert_eq!(*announced, object);
        }
    }

    #[test]
    fn what_no_sweep_writes_is_refused() {
        let written = String::from_utf8(swept(sweep(), &object("k"))).unwrap();
        for other in [
            String::new(),
            "{}".to_owned(),
            r#"{"sweep":{"id":"00000000-0000-0000-0000-000000000007","began":1}}"#.to_owned(),
            written.replace("\"sweep\"", "\"other\""),
            written.replace("\"began\":", "\"begun\":"),
            written.replace("ObjectCreated:Put", "ObjectCreated:PutTagging"),
            written.replace("ObjectCreated:Put", "ObjectRemoved:Delete"),
            written.replace("\"Key\"", "\"Other\"").replace("\"key\":\"k\"", "\"key\":\"k+l\""),
        ] {
            assert!(parse_swept(other.as_bytes()).is_err(), "{other}");
        }
    }
}
