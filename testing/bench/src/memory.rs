//! The peak memory of the daemon: a large object in each of many slots, once.

use std::path::Path;

use peers::error::{Context, Result};
use stack::clamd::Clamd;
use stack::say;

use crate::drain::Check;
use crate::results::Memory;
use crate::rig::{Engine, OwnEngine, Rig, Settings};
use crate::sets::{GIB, MIB, Object, Set, Shape};

const SLOTS: usize = 32;
/// Sizes of the objects: the first one, or the next that the disk has room for.
const SIZES: [(&str, u64); 4] =
    [("1GiB", GIB), ("512MiB", 512 * MIB), ("256MiB", 256 * MIB), ("64MiB", 64 * MIB)];
/// As the stack's own engine, but with more time for a scan, because many at once take long.
const ENGINE: [&str; 8] = [
    "StreamMaxLength 2147483645",
    "MaxFileSize 2147483645",
    "MaxScanSize 8589934580",
    "AlertExceedsMax yes",
    "AlertEncrypted yes",
    "MaxScanTime 0",
    "MaxThreads 40",
    "DisableCache yes",
];

/// Free bytes of the stack's file system.
///
/// # Errors
/// When the file system cannot be asked.
pub(super) fn free(folder: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(folder).context(folder.display())?;
    Ok(disk.f_bavail * disk.f_frsize)
}

/// Two objects of the largest size that there is room for; `None` when there is not enough for any.
///
/// # Errors
/// As [`free`].
pub(super) fn set(folder: &Path) -> Result<Option<Set>> {
    let free = free(folder)?;
    // Each has a copy in a temp file of the daemon and one in a temp file of clamd.
    let fits = |size: u64| free > size * (2 * SLOTS as u64 + 4) + 4 * GIB;
    let Some((name, size)) = SIZES.into_iter().find(|(_, size)| fits(*size)) else {
        return Ok(None);
    };
    let set = Set { name, shape: Shape::Same(size), stored: 2, slots: &[], drained: (0, 0) };
    Ok(Some(set))
}

/// Drains one object for each slot.
///
/// # Errors
/// When the daemon hangs or ends, or an object ends in the wrong state.
pub(super) async fn run(rig: &mut Rig, set: &Set) -> Result<Memory> {
    let objects = rig.store(set).await?;
    let chosen: Vec<&Object> = objects.iter().cycle().take(SLOTS).collect();
    let settings = Settings::new(Engine::Clamd, SLOTS, set.longest());
    let engine = Clamd::start(&ENGINE).await?;
    rig.engine = Some(OwnEngine { socket: engine.socket(), pid: engine.pid() });
    let drained = rig.drain(&chosen, &settings, Check::All).await;
    rig.engine = None;
    let memory = Memory { set: set.name.to_owned(), slots: SLOTS, drain: drained? };
    say!(
        "[bench] memory: {} objects in {SLOTS} slots: {:.1} MiB resident at most, in {:.0} s",
        set.name,
        memory.peak_mib(),
        memory.drain.pace.seconds
    );
    Ok(memory)
}
