//! Uploads in parts, as clients send large objects.

use std::path::Path;

use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use md5::{Digest, Md5};
use peers::eicar::hex;
use peers::error::{Context, Result};
use sha2::Sha256;
use tokio::io::AsyncReadExt;

use super::{CONTENT_TYPE, Ledger, METADATA, Upload, tagging};
use crate::samples::{Fate, large_archive};

/// Length of each part but the last one, in bytes.
const PART: usize = 16 << 20;

/// The hashes of a file that is uploaded in parts.
struct Hashes {
    sha256: String,
    /// As S3 makes it: of the MD5 of each part, with their number.
    etag: String,
    /// Lengths of the parts.
    parts: Vec<usize>,
}

impl Ledger {
    /// Uploads a zip archive of so many MiB in parts, with a tag of its user.
    pub(crate) async fn put_large_archive(&self, key: &str, mib: usize) -> Result<Upload> {
        let file = self.random(|rng| large_archive(mib, rng))?;
        let Hashes { sha256, etag, parts } = hashes(file.path()).await?;
        let upload = self.enter(key, Fate::Clean, true, etag, sha256);
        let (client, bucket) = (&self.store.client, &self.store.bucket);
        let creation = client.create_multipart_upload().bucket(bucket).key(key);
        let creation = creation.metadata(METADATA, &upload.sha256).content_type(CONTENT_TYPE);
        let begun = creation.tagging(tagging()).send().await.context(format!("begin {key}"))?;
        let id = begun.upload_id.context("an upload has an id")?;
        let (mut offset, mut done) = (0, CompletedMultipartUpload::builder());
        for (number, length) in (1..).zip(parts) {
            let length = length as u64;
            let body = ByteStream::read_from().path(file.path()).offset(offset);
            let body = body.length(Length::Exact(length)).build().await.context("part")?;
            let part = client.upload_part().bucket(bucket).key(key).upload_id(&id);
            let part = part.part_number(number).body(body).send().await.context("part")?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build();
            done = done.parts(part);
            offset += length;
        }
        let end = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
        let end = end.multipart_upload(done.build()).send().await.context(format!("end {key}"))?;
        self.stored(upload, &end.e_tag.unwrap_or_default(), end.version_id).await
    }
}

async fn hashes(path: &Path) -> Result<Hashes> {
    let mut file = tokio::fs::File::open(path).await.context("archive")?;
    let (mut whole, mut md5s, mut parts) = (Sha256::new(), Md5::new(), Vec::new());
    loop {
        let mut part = Vec::new();
        (&mut file).take(PART as u64).read_to_end(&mut part).await.context("archive")?;
        if part.is_empty() {
            let etag = format!("{}-{}", hex(&md5s.finalize()), parts.len());
            return Ok(Hashes { sha256: hex(&whole.finalize()), etag, parts });
        }
        whole.update(&part);
        md5s.update(Md5::digest(&part));
        parts.push(part.len());
    }
}
