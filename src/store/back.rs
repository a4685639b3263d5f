//! Writes an object back under a name, with all that its uploader stored with it.
//!
//! In one request with its tags, so that it is never there without them, and only where nothing is: not
//! every store honours that condition, so [`Store::honours_absence`] finds it out first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;

use super::aside::is_of_uploader;
use super::buffer::{BATCH_SIZE, Buffer};
use super::effects::{KeyValue, refuses_condition};
use super::fault::{self, Fault};
use super::key::for_sdk;
use super::page::{Listed, Listing, Mark, Walk};
use super::request::Request;
use super::transport::{Patience, With};
use super::{Identity, Place, Store};
use crate::failure::{Failure, Reason};

/// The largest object that is written in one request, in bytes: S3's own limit.
pub(crate) const MAX_PUT: u64 = 5 << 30;
/// For a request that writes, besides the time for its bytes.
const PUT_TIMEOUT: Duration = Duration::from_mins(2);
/// The slowest upload that is waited for, in bytes a second.
const MIN_RATE: u64 = 1 << 20;
/// The condition that nothing is there yet.
const NOTHING: &str = "*";
/// Pages of a list of versions that are looked through for one key.
const MAX_PAGES: usize = 50;

/// What is written back.
#[derive(Debug)]
pub(crate) struct Restoration<'a> {
    pub(crate) place: &'a Place,
    /// As its uploader stored them; names in lower case.
    pub(crate) headers: &'a [(String, Vec<u8>)],
    pub(crate) tags: &'a [KeyValue],
    /// Only where nothing is.
    pub(crate) only_if_absent: bool,
}

/// How the writing ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// The store took it, as this version if the bucket has versions.
    Taken { version: Option<String> },
    /// Something is there.
    Occupied,
}

impl Store {
    /// Whether this store refuses to write over an object where it is asked to. Tried with an object of
    /// our own at `place`, which is left there.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub(crate) async fn honours_absence(&self, place: &Place) -> Result<bool, Failure> {
        let put = |conditional: bool| {
            let put = self.client.put_object().bucket(&place.bucket).key(&place.key);
            put.body(ByteStream::from_static(b"Written by bucket-av-scanner quarantine restore.\n"))
                .set_if_none_match(conditional.then(|| NOTHING.to_owned()))
                .send()
        };
        put(false).await.map_err(|error| fault::of(Request::Put, &error).into_failure())?;
        match put(true).await {
            Ok(_) => Ok(false),
            Err(error) if refuses_condition(&error) => Ok(false),
            Err(error) => match fault::of(Request::Put, &error) {
                Fault::Changed => Ok(true),
                Fault::Unsupported(_) => Ok(false),
                fault => Err(fault.into_failure()),
            },
        }
    }

    /// The versions of a key.
    ///
    /// # Errors
    /// When the list cannot be had, or not to its end.
    pub(crate) async fn versions_of(&self, place: &Place) -> Result<Vec<Identity>, Failure> {
        let Place { bucket, key } = place.clone();
        let walk = Walk { bucket, prefix: key.clone(), listing: Listing::Versions };
        let (mut mark, mut found) = (Some(Mark::Start), Vec::new());
        for _ in 0..MAX_PAGES {
            let Some(from) = mark.take() else { return Ok(found) };
            let page = self.page(&walk, &from).await?;
            for listed in page.objects {
                if let Listed::Object(identity) = listed
                    && identity.key == key
                {
                    found.push(identity);
                }
            }
            mark = page.next;
        }
        if mark.is_none() {
            return Ok(found);
        }
        let detail = "more versions below this key than are looked through";
        Err(Failure::permanent(Request::List.stage(), Reason::TooManyVersions, detail))
    }

    /// Writes the bytes. The SDK does not repeat it: a repeat would find what the first request wrote.
    ///
    /// # Errors
    /// When the store does not confirm it. It may be there all the same.
    pub(crate) async fn write_back(
        &self,
        bytes: &Buffer,
        what: &Restoration<'_>,
    ) -> Result<Written, Failure> {
        let sendable = sendable(what.headers);
        let answer = match self.put_once(bytes, what, &sendable).await {
            // Stores differ in what they can sign or keep of such headers.
            Err(error) if is_refusal(&error) => {
                let plain: Vec<_> =
                    sendable.iter().filter(|header| is_plain(header)).cloned().collect();
                if plain.len() == sendable.len() {
                    Err(error)
                } else {
                    self.put_once(bytes, what, &plain).await
                }
            }
            answer => answer,
        };
        match answer {
            Ok(answer) => Ok(Written::Taken { version: answer.version_id }),
            Err(error) => match fault::of(Request::Put, &error) {
                Fault::Changed if what.only_if_absent => Ok(Written::Occupied),
                fault => Err(fault.into_failure()),
            },
        }
    }

    async fn put_once(
        &self,
        bytes: &Buffer,
        what: &Restoration<'_>,
        headers: &[(String, String)],
    ) -> Result<PutObjectOutput, SdkError<PutObjectError, HttpResponse>> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let tags =
            what.tags.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value)));
        let length = bytes.length();
        let time = PUT_TIMEOUT + Duration::from_secs(length / MIN_RATE);
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(time)
            .operation_timeout(time)
            .build();
        let config = Builder::new().retry_config(RetryConfig::disabled()).timeout_config(timeouts);
        let put = self.client.put_object().bucket(&what.place.bucket).key(for_sdk(&what.place.key));
        put.body(body(bytes))
            .content_length(i64::try_from(length).unwrap_or(i64::MAX))
            .tagging(tags.collect::<Vec<_>>().join("&"))
            .set_if_none_match(what.only_if_absent.then(|| NOTHING.to_owned()))
            .customize()
            .config_override(config)
            .interceptor(With(Patience(time)))
            .interceptor(Headers(headers.to_vec()))
            .send()
            .await
    }
}

/// Puts an uploader's headers into a request.
#[derive(Debug)]
struct Headers(Vec<(String, String)>);

impl Intercept for Headers {
    fn name(&self) -> &'static str {
        "Headers"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        // What the SDK sets by itself where nothing else is set.
        headers.remove("content-type");
        for (name, value) in &self.0 {
            headers.try_append(name.clone(), value.clone())?;
        }
        Ok(())
    }
}

/// The headers that can be sent at all: the uploader's, with values that the SDK takes.
fn sendable(headers: &[(String, Vec<u8>)]) -> Vec<(String, String)> {
    let sendable = headers.iter().filter_map(|(name, value)| {
        let text = String::from_utf8(value.clone()).ok()?;
        let is_name = name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        let is_value = !text.chars().any(char::is_control);
        // It says how the body is sent, and would be taken for ours.
        let is_transfer = name == "content-encoding" && text.contains("aws-chunked");
        // Only answers have it.
        let is_answer = name == "x-amz-missing-meta";
        (is_of_uploader(name) && is_name && is_value && !is_transfer && !is_answer)
            .then_some((name.clone(), text))
    });
    sendable.collect()
}

fn is_plain((_, value): &(String, String)) -> bool {
    value.bytes().all(|c| matches!(c, b' '..=b'~'))
}

/// Whether the store said no to the request as it was, rather than that it could not answer it.
fn is_refusal(error: &SdkError<PutObjectError, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    matches!(status, Some(400 | 403)) || matches!(error, SdkError::ConstructionFailure(_))
}

/// A body that reads the bytes as they are sent.
struct Reading {
    left: u64,
    chunks: mpsc::Receiver<io::Result<Bytes>>,
}

fn body(bytes: &Buffer) -> ByteStream {
    let (sender, chunks) = mpsc::channel(2);
    let mut reader = bytes.reader();
    tokio::spawn(async move {
        loop {
            let read = reader.read(vec![0; BATCH_SIZE], 0).await;
            let chunk = match read {
                Ok((_, 0)) => return,
                Ok((mut chunk, got)) => {
                    chunk.truncate(got);
                    Ok(Bytes::from(chunk))
                }
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    ByteStream::new(SdkBody::from_body_1_x(Reading { left: bytes.length(), chunks }))
}

impl Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.chunks.poll_recv(context).map(|chunk| {
            Some(chunk?.map(|chunk| {
                self.left = self.left.saturating_sub(chunk.len() as u64);
                Frame::data(chunk)
            }))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The uploader's headers that are not there as they were, by name.
pub(crate) fn differing(wanted: &[(String, Vec<u8>)], found: &[(String, Vec<u8>)]) -> Vec<String> {
    // Several of one name may come back as one.
    let joined = |all: &[(String, Vec<u8>)], name: &str| {
        let values = all.iter().filter(|(other, _)| other == name);
        let values = values.map(|(_, value)| value.trim_ascii().to_vec()).collect::<Vec<_>>();
        let mut joined = values.join(&b","[..]);
        joined.retain(|byte| !byte.is_ascii_whitespace());
        joined
    };
    let mut names: Vec<_> = wanted.iter().map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| joined(wanted, name) != joined(found, name));
    names
}

/// A failure that says of which right it is.
pub(crate) fn naming_right(failure: &Failure, right: &str) -> String {
    match failure.reason {
        Reason::StoreDenied => format!("allow {right}: {failure}"),
        _ => failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &[u8]) -> (String, Vec<u8>) {
        (name.to_owned(), value.to_vec())
    }

    #[test]
    fn only_what_an_uploader_stores_is_sent() {
        let headers = [
            header("content-type", b"text/odd"),
            header("x-amz-meta-a", "\u{e4} b".as_bytes()),
            header("x-amz-meta-raw", b"\xff"),
            header("x-amz-meta-line", b"a\r\nx-amz-acl: public-read"),
            header("x-amz-meta-a b", b"x"),
            header("x-amz-acl", b"public-read"),
            header("x-amz-missing-meta", b"2"),
            header("content-encoding", b"aws-chunked"),
            header("content-encoding", b"gzip"),
        ];
        let names: Vec<_> = sendable(&headers).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["content-type", "x-amz-meta-a", "content-encoding"]);
        assert_eq!(sendable(&headers).iter().filter(|header| is_plain(header)).count(), 2);
    }

    #[test]
    fn what_did_not_come_back_as_it_was_is_named() {
        let wanted = [
            header("x-amz-meta-a", b"1"),
            header("x-amz-meta-a", b"2"),
            header("x-amz-meta-b", b" x  y "),
            header("x-amz-meta-c", b"\xff"),
            header("expires", b"never"),
        ];
        let found = [
            header("expires", b"0"),
            header("x-amz-meta-a", b"1, 2"),
            header("x-amz-meta-b", b"x y"),
            header("x-amz-meta-d", b"of the store"),
        ];
        assert_eq!(differing(&wanted, &found), ["expires", "x-amz-meta-c"]);
    }
}
