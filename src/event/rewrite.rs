//! Messages of ours about one object, made of the notification that announced it.

use serde_json::{Value, json};

use super::{Message, ObjectRef, Version, read, seaweed, unwrapped};

/// Rewrites the notification in `body`, which announces `object`, so that it names exactly one
/// object: with the settled key, and with `version` if given. Its other fields stay.
pub(crate) fn exact(body: &[u8], object: &ObjectRef, version: Option<&Version>) -> Vec<u8> {
    let mut record = template(body).unwrap_or_else(|| {
        let name = if object.uncovered { "ObjectRemoved:Delete" } else { "ObjectCreated:Put" };
        json!({ "eventName": name, "eventTime": object.event_time, "s3": {
            "bucket": { "name": object.bucket },
            "object": {
                "versionId": object.version_id.clone().or(object.uncovered.then(|| "null".to_owned())),
                "eTag": object.etag, "size": object.size, "sequencer": object.sequencer,
            },
        } })
    });
    record["s3"]["object"]["key"] = object.key.as_str().into();
    if let Some(Version { id, etag, size }) = version {
        record["eventName"] = "ObjectCreated:Version".into();
        record["s3"]["object"]["versionId"] = id.as_str().into();
        record["s3"]["object"]["eTag"] = etag.clone().into();
        record["s3"]["object"]["size"] = (*size).into();
    }
    let path = format!("{}/{}", object.bucket, object.key);
    json!({ "Key": path, "Records": [record] }).to_string().into_bytes()
}

/// A message about the file of a version that does not exist, if the notification told of one.
pub(crate) fn as_file(object: &ObjectRef) -> Option<Vec<u8>> {
    let file = object.file.as_deref()?;
    let record = seaweed::record("ObjectCreated", &object.bucket, file, None, object.size);
    Some(json!({ "Records": [record] }).to_string().into_bytes())
}

/// The only record of a message, if it can be rewritten without changing its other fields.
fn template(body: &[u8]) -> Option<Value> {
    let only = |message: Message<'_>| match message.records.as_slice() {
        [record] => Ok(serde_json::from_str::<Value>(unwrapped(record).get()).ok()),
        _ => Ok(None),
    };
    let record = read(body, only).ok()??;
    record.pointer("/s3/object")?.is_object().then_some(record)
}
