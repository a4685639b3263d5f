//! The objects: sets of one size each, and a mixed one. The content is seeded noise, which does not
//! compress.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, Length};
use fastrand::Rng;
use futures_util::{StreamExt, TryStreamExt, stream};
use peers::eicar::eicar;
use peers::error::{Context, Error, Result};
use peers::zip;
use stack::S3;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// Concurrency of everything that is measured with one only.
pub(super) const USUAL_SLOTS: usize = 4;

/// Seed of all noise.
const SEED: u64 = 2026;
/// Parallel requests while objects are stored.
const UPLOADS: usize = 8;
/// Longer than any benchmark.
const URL_LIFETIME: Duration = Duration::from_hours(12);

/// The sizes of the objects of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// All of this many bytes.
    Same(u64),
    /// Mostly small ones, a few large ones, 3 % infected: see [`mixed`].
    Mixed,
}

/// The description of a set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// How many different objects are stored. Further notifications name objects again.
    pub(super) stored: usize,
    /// The concurrencies of the measurement.
    pub(super) slots: &'static [usize],
    /// The least and the most objects of one drain.
    pub(super) drained: (usize, usize),
}

/// All sets.
pub(super) const SETS: [Set; 6] = [
    Set {
        name: "1KiB",
        shape: Shape::Same(KIB),
        stored: 1000,
        slots: &[1, 4, 32],
        drained: (64, 1000),
    },
    Set {
        name: "10KiB",
        shape: Shape::Same(10 * KIB),
        stored: 1000,
        slots: &[1, 4, 32],
        drained: (64, 1000),
    },
    Set {
        name: "1MiB",
        shape: Shape::Same(MIB),
        stored: 250,
        slots: &[1, 4, 32],
        drained: (64, 250),
    },
    Set {
        name: "64MiB",
        shape: Shape::Same(64 * MIB),
        stored: 8,
        slots: &[1, 2, 4],
        drained: (8, 16),
    },
    Set { name: "1GiB", shape: Shape::Same(GIB), stored: 2, slots: &[1, 2], drained: (2, 2) },
    Set {
        name: "mixed",
        shape: Shape::Mixed,
        stored: 200,
        slots: &[4],
        // Always the whole set: a part of it would be a different mix.
        drained: (200, 200),
    },
];

/// One stored object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) infected: bool,
    /// As the store returned it.
    pub(super) etag: String,
    /// Its version, in a bucket that has them.
    pub(super) version: Option<String>,
    /// Path and query of a presigned GET.
    pub(super) signed_path: String,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    /// At this offset of the pool.
    Noise(u64),
    Held(Arc<[u8]>),
}

/// One file of noise, of which the objects are slices. It is in the page cache after it was
/// written.
#[derive(Debug)]
pub(super) struct Pool {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Pool {
    /// Makes the file, large enough that `longest` bytes can start at many offsets.
    pub(super) fn make(folder: &Path, longest: u64) -> Result<Self> {
        let path = folder.join("noise");
        let length = longest + 64 * MIB;
        let mut rng = Rng::with_seed(SEED);
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .context(path.display())?;
        let mut block = vec![0; 1 << 20];
        for _ in 0..length / MIB {
            rng.fill(&mut block);
            file.write_all(&block).context(path.display())?;
        }
        Ok(Self { path, file, length: length / MIB * MIB })
    }

    /// Fills `buffer` with an object's bytes from `offset` on.
    pub(super) fn read(&self, object: &Object, offset: u64, buffer: &mut [u8]) -> Result<()> {
        match &object.content {
            Content::Noise(start) => {
                self.file.read_exact_at(buffer, start + offset).context("noise")
            }
            Content::Held(bytes) => {
                let start = usize::try_from(offset).context("offset")?;
                let part = bytes.get(start..start + buffer.len()).context("offset")?;
                buffer.copy_from_slice(part);
                Ok(())
            }
        }
    }
}

impl Set {
    /// The size of its largest object, in bytes.
    pub(super) fn longest(&self) -> u64 {
        match self.shape {
            Shape::Same(size) => size,
            Shape::Mixed => 64 * MIB,
        }
    }

    /// Stores its objects.
    ///
    /// # Errors
    /// When the store refuses one.
    pub(super) async fn store(&self, pool: &Pool, s3: &S3, versioned: bool) -> Result<Vec<Object>> {
        let mut rng = Rng::with_seed(SEED ^ self.longest());
        let mut objects: Vec<Object> = match self.shape {
            Shape::Same(size) => (0..self.stored)
                .map(|number| noise(self.name, number, size, pool, &mut rng))
                .collect(),
            Shape::Mixed => mixed(self.name, self.stored, pool, &mut rng),
        };
        // Not sorted by size.
        rng.shuffle(&mut objects);
        stream::iter(objects)
            .map(|object| stored(object, pool, s3, versioned))
            .buffered(UPLOADS)
            .try_collect()
            .await
    }
}

fn noise(set: &str, number: usize, size: u64, pool: &Pool, rng: &mut Rng) -> Object {
    object(format!("{set}/{number:05}.bin"), size, Content::Noise(rng.u64(0..=pool.length - size)))
}

fn object(key: String, size: u64, content: Content) -> Object {
    let infected = matches!(content, Content::Held(_));
    let (etag, signed_path) = (String::new(), String::new());
    Object { key, size, infected, etag, version: None, signed_path, content }
}

/// Of a hundred objects, 55 have 1 to 32 KiB, 30 up to 1 MiB, 13 up to 16 MiB and 2 have 64 MiB.
/// Within a class the sizes are log-uniform. 3 of the smallest class are archives that contain the
/// EICAR test file.
fn mixed(set: &str, count: usize, pool: &Pool, rng: &mut Rng) -> Vec<Object> {
    (0..count)
        .map(|number| {
            let Some(size) = mixed_size(number * 100 / count, rng) else {
                let mut filler = vec![0; 8 << 10];
                rng.fill(&mut filler);
                let members = [("eicar.com", &*eicar()), ("noise.bin", &*filler)];
                let bytes: Arc<[u8]> = zip::archive(&members).into();
                let key = format!("{set}/{number:05}.zip");
                return object(key, bytes.len() as u64, Content::Held(bytes));
            };
            noise(set, number, size, pool, rng)
        })
        .collect()
}

/// The size of the object at this per cent of the mixed set; `None` for one of the archives.
pub(super) fn mixed_size(percent: usize, rng: &mut Rng) -> Option<u64> {
    let mut between = |least: u64, doublings: f64| {
        let factor = (rng.f64() * doublings).exp2();
        u64::try_from(Duration::from_nanos(least).mul_f64(factor).as_nanos()).unwrap_or(MIB)
    };
    match percent {
        0..3 => None,
        3..55 => Some(between(KIB, 5.0)),
        55..85 => Some(between(32 * KIB, 5.0)),
        85..98 => Some(between(MIB, 4.0)),
        _ => Some(64 * MIB),
    }
}

async fn stored(mut object: Object, pool: &Pool, s3: &S3, versioned: bool) -> Result<Object> {
    let body = match &object.content {
        Content::Held(bytes) => ByteStream::from(bytes.to_vec()),
        Content::Noise(start) => ByteStream::read_from()
            .path(&pool.path)
            .offset(*start)
            .length(Length::Exact(object.size))
            .build()
            .await
            .context("noise")?,
    };
    object.etag = s3.put_body(&object.key, body).await?;
    if versioned {
        let head = s3.head(&object.key).await?.context("what was just stored is gone")?;
        object.version = Some(head.version_id.context("no version in a bucket with versions")?);
    }
    let lifetime = PresigningConfig::expires_in(URL_LIFETIME).context("URL")?;
    let get = s3.client.get_object().bucket(&s3.bucket).key(&object.key);
    let signed = get.presigned(lifetime).await;
    let signed = signed.map_err(|error| Error::new(format!("sign {}: {error}", object.key)))?;
    let url = url::Url::parse(signed.uri()).context("URL")?;
    url[url::Position::BeforePath..].clone_into(&mut object.signed_path);
    Ok(object)
}
