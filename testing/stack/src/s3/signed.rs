//! Requests to a store, byte for byte: with headers that no SDK would send, signed here.
//!
//! Source of the signature: AWS Signature Version 4 for S3, in the `Authorization` header,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use std::fmt::Write;
use std::time::Duration;

use peers::eicar::hex;
use peers::error::{Context, Result};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);
/// In place of the body's hash.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The credentials of the requests, and their target.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) url: String,
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) region: String,
}

/// The head of an answer, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawAnswer {
    /// Its status; 0 when the connection was cut before one came.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl RawAnswer {
    /// A header as text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

impl Account {
    /// Sends a request for an object (bucket, key and version id); names of headers are in lower
    /// case.
    pub(super) async fn send(
        &self,
        method: &str,
        (bucket, key, version): (&str, &str, Option<&str>),
        headers: &[(String, Vec<u8>)],
        content: &[u8],
    ) -> Result<RawAnswer> {
        let query = version.map(|id| format!("versionId={}", encoded(id))).unwrap_or_default();
        let mut headers = headers.to_vec();
        headers.push(("connection".to_owned(), b"close".to_vec()));
        let request = self.request(method, (bucket, key, &query), &headers, content);
        let host = self.host();
        let exchange = async {
            let mut stream = TcpStream::connect(host).await?;
            let mut answer = Vec::new();
            // A store that refuses may close the connection before the whole request is sent.
            drop(stream.write_all(&request).await);
            drop(stream.read_to_end(&mut answer).await);
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await.context(host)?.context(host)?;
        Ok(read_head(&answer).unwrap_or_default())
    }

    fn host(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The bytes of a request for an object (bucket, key and query), to be sent within minutes.
    pub(super) fn request(
        &self,
        method: &str,
        (bucket, key, query): (&str, &str, &str),
        headers: &[(String, Vec<u8>)],
        content: &[u8],
    ) -> Vec<u8> {
        let path = format!("/{bucket}/{}", encoded(key));
        let now = OffsetDateTime::now_utc();
        let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
        let date = format!("{year:04}{month:02}{day:02}");
        let time = format!("{date}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        let mut all = headers.to_vec();
        all.extend(
            [("host", self.host()), ("x-amz-content-sha256", UNSIGNED), ("x-amz-date", &*time)]
                .map(text),
        );
        all.sort();
        let authorization = self.authorization([method, &path, query], &all, [&date, &time]);
        let length = content.len().to_string();
        all.extend([("authorization", &*authorization), ("content-length", &*length)].map(text));
        let mut request = format!("{method} {path}?{query} HTTP/1.1\r\n").into_bytes();
        for (name, value) in &all {
            request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        request.extend([b"\r\n", content].concat());
        request
    }

    fn authorization(
        &self,
        [method, path, query]: [&str; 3],
        headers: &[(String, Vec<u8>)],
        [date, time]: [&str; 2],
    ) -> String {
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut canonical = format!("{method}\n{path}\n{query}\n").into_bytes();
        for (name, value) in headers {
            canonical.extend([name.as_bytes(), b":", value.trim_ascii(), b"\n"].concat());
        }
        canonical.extend(format!("\n{names}\n{UNSIGNED}").into_bytes());
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let hash = hex(&Sha256::digest(&canonical));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}");
        let secret = format!("AWS4{}", self.secret_key).into_bytes();
        let key = [date, &self.region, "s3", "aws4_request"]
            .iter()
            .fold(secret, |key, part| hmac_sha256(&key, part.as_bytes()));
        let signature = hex(&hmac_sha256(&key, text.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key
        )
    }
}

/// HMAC-SHA256 as in RFC 2104. The keys here are never longer than a block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = Sha256::digest([&pad(0x36), message].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// A key in the encoding of S3 for paths.
fn encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                text.push(byte.into());
            }
            _ => write!(text, "%{byte:02X}").expect("a string takes every write"),
        }
        text
    })
}

fn read_head(answer: &[u8]) -> Option<RawAnswer> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")?;
    let mut lines = answer[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = String::from_utf8_lossy(lines.next()?).split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        Some((name, line[colon + 1..].trim_ascii().to_vec()))
    });
    Some(RawAnswer { status, headers: headers.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_that_of_rfc_4231() {
        // Test case 2.
        let code = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert!(hex(&code).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }

    #[test]
    fn a_head_is_read_in_whatever_bytes() {
        let answer = b"HTTP/1.1 200 OK\r\nX-A: Jos\xe9\r\nETag: \"e\"\r\n\r\nbody";
        let answer = read_head(answer).unwrap();
        assert_eq!((answer.status, answer.text("etag")), (200, Some("\"e\"".to_owned())));
        assert_eq!(answer.headers[0], ("x-a".to_owned(), b"Jos\xe9".to_vec()));
        assert_eq!(read_head(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
