//! A message of our own among the notifications. A queue is first in, first out: when it comes, what
//! was queued before it has come too.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The field is in no notification of any store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    #[serde(rename = "avscan-marker")]
    id: Uuid,
}

/// The body of the marker `id`.
pub(crate) fn marker(id: Uuid) -> Vec<u8> {
    // Cannot fail: the only field is text.
    serde_json::to_vec(&Marker { id }).unwrap_or_default()
}

/// The marker in `body`; `None` for anything else.
pub(super) fn read(body: &[u8]) -> Option<Uuid> {
    serde_json::from_slice(body).ok().map(|Marker { id }| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Malformed, Notification, parse};

    #[test]
    fn a_marker_is_read_as_it_was_written_and_nothing_else_is_one() {
        let id = Uuid::new_v4();
        assert!(matches!(parse(&marker(id)), Ok(Notification::Marker(read)) if read == id));
        for other in [r#"{"avscan-marker":1}"#, r#"{"avscan-marker":"x"}"#, "{}"] {
            assert!(matches!(parse(other.as_bytes()), Err(Malformed::NoRecords)), "{other}");
        }
    }
}
