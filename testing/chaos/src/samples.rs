//! Objects whose result is known before the daemon sees them.

use std::io::{BufWriter, Write};

use fastrand::Rng;
use peers::eicar::{eicar, hex};
use peers::error::{Context, Result};
use peers::zip;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// Length of an object above the limit of the suite's engine and below every other limit, in bytes.
pub(super) const TOO_LARGE: usize = 1_200_000;
/// Length added to every third object, in bytes: the daemon keeps small objects in memory and large
/// ones in a file.
const LARGE: usize = 150_000;
/// The engine's limit, as a line of its configuration.
pub(super) const STREAM_MAX: &str = "StreamMaxLength 1M";

/// The expected result of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Clean,
    Infected,
    Encrypted,
    TooLarge,
}

impl Fate {
    /// Mostly clean, with enough of the others that every fault meets some.
    pub(super) fn random(rng: &mut Rng) -> Self {
        match rng.u32(0..100) {
            0..70 => Self::Clean,
            70..89 => Self::Infected,
            89..97 => Self::Encrypted,
            _ => Self::TooLarge,
        }
    }

    /// Status and reason of the report.
    pub(super) const fn status(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Clean => ("clean", None),
            Self::Infected => ("infected", None),
            Self::Encrypted => ("no", Some("encrypted")),
            Self::TooLarge => ("no", Some("too_large")),
        }
    }
}

/// Content of this fate, different from all other objects.
pub(super) fn content(fate: Fate, rng: &mut Rng) -> Vec<u8> {
    let more = if rng.u32(0..3) == 0 { LARGE } else { 0 };
    sample(fate, more, rng)
}

/// As [`content`], at most 64 KiB where the fate allows it.
pub(super) fn small(fate: Fate, rng: &mut Rng) -> Vec<u8> {
    sample(fate, 0, rng)
}

/// As [`small`], some hundred bytes for the fates of most objects.
pub(super) fn tiny(fate: Fate, rng: &mut Rng) -> Vec<u8> {
    match fate {
        Fate::Clean => hex(&std::array::from_fn::<u8, 100, _>(|_| rng.u8(..))).into_bytes(),
        fate => small(fate, rng),
    }
}

fn sample(fate: Fate, more: usize, rng: &mut Rng) -> Vec<u8> {
    let mut noise = |length: usize| {
        let mut bytes = vec![0; length];
        rng.fill(&mut bytes);
        bytes
    };
    match fate {
        Fate::Clean => {
            let length = usize::from(u16::from_be_bytes([noise(1)[0], 0])) + 40;
            noise(length + more)
        }
        Fate::Infected => [hex(&noise(30 + more / 2)).into_bytes(), eicar()].concat(),
        Fate::Encrypted => zip::encrypted(&hex(&noise(20)), 200),
        Fate::TooLarge => noise(TOO_LARGE),
    }
}

/// A zip archive of this length, clean and different from all other objects.
pub(super) fn archive(length: usize, rng: &mut Rng) -> Vec<u8> {
    let name = hex(&rng.u64(..).to_be_bytes());
    let around = zip::archive(&[(&name, b"")]).len();
    let mut noise = vec![0; length.saturating_sub(around)];
    rng.fill(&mut noise);
    zip::archive(&[(&name, &noise)])
}

/// As [`archive`], so many MiB and a bit more in a file. Its members have the same bytes, so that no more of
/// it is in memory than one.
pub(super) fn large_archive(mib: usize, rng: &mut Rng) -> Result<NamedTempFile> {
    let mut noise = vec![0; 1 << 20];
    rng.fill(&mut noise);
    let names: Vec<String> = (0..mib).map(|n| format!("{n:04}")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &*noise)).collect();
    let file = NamedTempFile::new().context("temp file")?;
    let mut writer = BufWriter::new(&file);
    zip::write(&mut writer, &members).context("archive")?;
    writer.flush().context("archive")?;
    drop(writer);
    Ok(file)
}

/// Lower-case hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
