//! The XML of the S3 API that this store writes and reads.

use std::cmp::Ordering;
use std::fmt::Write;

use time::format_description::well_known::Rfc3339;

use super::bucket::{Bucket, Version, Versioning};
use super::call::{Call, percent_decoded};
use crate::scripted::http::Reply;

/// Entries of a page: the default, and the most.
const PAGE: usize = 1000;

pub(super) fn buckets<'a>(names: impl Iterator<Item = &'a String>) -> Reply {
    let names: String = names
        .map(|name| {
            let name = escaped(name);
            format!(
                "<Bucket><Name>{name}</Name>\
                 <CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket>"
            )
        })
        .collect();
    xml("ListAllMyBucketsResult", &format!("<Owner><ID>s</ID></Owner><Buckets>{names}</Buckets>"))
}

pub(super) fn versioning(versioning: Versioning) -> Reply {
    let status = match versioning {
        Versioning::Off => "",
        Versioning::Enabled => "<Status>Enabled</Status>",
        Versioning::Suspended => "<Status>Suspended</Status>",
    };
    xml("VersioningConfiguration", status)
}

pub(super) fn tags(tags: &[(String, String)]) -> Reply {
    let tags: String = tags
        .iter()
        .map(|(key, value)| {
            format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escaped(key), escaped(value))
        })
        .collect();
    xml("Tagging", &format!("<TagSet>{tags}</TagSet>"))
}

/// The tags of a `PutObjectTagging`.
pub(super) fn read_tags(text: &str) -> Vec<(String, String)> {
    let inside = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (inside, _) = rest.split_once(&format!("</{name}>"))?;
        Some(unescaped(inside))
    };
    let tags = text.split("<Tag>").skip(1);
    tags.filter_map(|tag| Some((inside(tag, "Key")?, inside(tag, "Value").unwrap_or_default())))
        .collect()
}

pub(super) fn objects(bucket: &Bucket, call: &Call) -> Reply {
    // The token is the last key of the page before.
    let token = call.parameter("continuation-token").map(percent_decoded);
    let after = call.parameter("start-after").map(|key| key.as_bytes().to_vec());
    let after = token.or(after);
    let mut found = bucket
        .iter()
        .filter_map(|(key, versions)| Some((key, versions.last()?)))
        .filter(|(key, version)| !version.is_marker && has_prefix(call, key))
        .filter(|(key, _)| after.as_deref().is_none_or(|after| *key > after));
    let page: Vec<_> = found.by_ref().take(limit(call)).collect();
    let more = found.next().is_some();
    let mut inside = common(call, more);
    inside.extend(page.last().filter(|_| more).map(|(last, _)| {
        let token = percent_encoded(last);
        format!("<NextContinuationToken>{token}</NextContinuationToken>")
    }));
    inside.extend([format!("<KeyCount>{}</KeyCount>", page.len())]);
    inside.extend(page.into_iter().map(|(key, version)| {
        let entry = entry(call, key, version);
        format!("<Contents>{entry}</Contents>")
    }));
    xml("ListBucketResult", &inside)
}

pub(super) fn versions(bucket: &Bucket, call: &Call) -> Reply {
    let key_marker = call.parameter("key-marker").filter(|key| !key.is_empty());
    let id_marker = call.parameter("version-id-marker").filter(|id| !id.is_empty());
    let mut skipping = id_marker.is_some();
    // By key; versions of the same key newest first.
    let all = bucket.iter().flat_map(|(key, versions)| {
        let newest = versions.len() - 1;
        let numbered = versions.iter().enumerate().rev();
        numbered.map(move |(number, version)| (key, version, number == newest))
    });
    let mut found = all.filter(|(key, version, _)| {
        // Of the marker's own key, only what follows the marker's version.
        let after = match key_marker.map(|marker| (*key).cmp(marker.as_bytes())) {
            Some(Ordering::Less) => false,
            Some(Ordering::Equal) if id_marker.is_none() => false,
            Some(Ordering::Equal) if skipping => {
                skipping = id_marker != Some(version.id.as_str());
                false
            }
            _ => true,
        };
        after && has_prefix(call, key)
    });
    let page: Vec<_> = found.by_ref().take(limit(call)).collect();
    let more = found.next().is_some();
    let mut inside = common(call, more);
    inside.extend(page.last().filter(|_| more).map(|(key, version, _)| {
        format!(
            "<NextKeyMarker>{}</NextKeyMarker><NextVersionIdMarker>{}</NextVersionIdMarker>",
            written(call, key),
            escaped(&version.id)
        )
    }));
    inside.extend(page.into_iter().map(|(key, version, latest)| {
        let kind = if version.is_marker { "DeleteMarker" } else { "Version" };
        format!(
            "<{kind}><VersionId>{}</VersionId><IsLatest>{latest}</IsLatest>{}</{kind}>",
            escaped(&version.id),
            entry(call, key, version)
        )
    }));
    xml("ListVersionsResult", &inside)
}

fn common(call: &Call, more: bool) -> String {
    let prefix = call.parameter("prefix").unwrap_or_default();
    let mut text = format!(
        "<Name>{}</Name><Prefix>{}</Prefix><MaxKeys>{}</MaxKeys><IsTruncated>{more}</IsTruncated>",
        escaped(&call.bucket),
        written(call, prefix.as_bytes()),
        limit(call)
    );
    if is_encoded(call) {
        text += "<EncodingType>url</EncodingType>";
    }
    text
}

fn entry(call: &Call, key: &[u8], version: &Version) -> String {
    let modified = version.modified.format(&Rfc3339).unwrap_or_default();
    let named = format!("<Key>{}</Key><LastModified>{modified}</LastModified>", written(call, key));
    if version.is_marker {
        return named;
    }
    format!(
        "{named}<ETag>&quot;{}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass>",
        escaped(&version.etag),
        version.body.len()
    )
}

fn has_prefix(call: &Call, key: &[u8]) -> bool {
    call.parameter("prefix").is_none_or(|prefix| key.starts_with(prefix.as_bytes()))
}

fn limit(call: &Call) -> usize {
    let asked = call.parameter("max-keys").and_then(|text| text.parse().ok());
    asked.unwrap_or(PAGE).min(PAGE)
}

fn is_encoded(call: &Call) -> bool {
    call.parameter("encoding-type") == Some("url")
}

/// A key as a listing shows it: percent-encoded if that was asked for, else as text. What XML
/// cannot hold becomes a character reference, which strict readers refuse.
fn written(call: &Call, key: &[u8]) -> String {
    if is_encoded(call) { percent_encoded(key) } else { escaped(&String::from_utf8_lossy(key)) }
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b'*' => {
                text.push((*byte).into());
            }
            _ => write!(text, "%{byte:02X}").expect("a string takes every write"),
        }
        text
    })
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, one| {
        match one {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            control if control < ' ' => {
                write!(escaped, "&#x{:X};", u32::from(control)).expect("takes every write");
            }
            plain => escaped.push(plain),
        }
        escaped
    })
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain += before;
        let (name, tail) = after.split_once(';').unwrap_or((after, ""));
        let code = name.strip_prefix('#').map(|code| match code.strip_prefix('x') {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
            None => code.parse(),
        });
        match (name, code.and_then(|code| char::from_u32(code.ok()?))) {
            (_, Some(one)) => plain.push(one),
            ("amp", _) => plain.push('&'),
            ("lt", _) => plain.push('<'),
            ("gt", _) => plain.push('>'),
            ("quot", _) => plain.push('"'),
            ("apos", _) => plain.push('\''),
            _ => plain.extend(["&", name, ";"]),
        }
        rest = tail;
    }
    plain + rest
}

fn xml(root: &str, inside: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</{root}>"
    );
    Reply::new(200, body).header("content-type", "application/xml")
}
