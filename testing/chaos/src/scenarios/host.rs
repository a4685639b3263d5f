//! Faults of the host under the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use peers::error::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::ledger::{OBJECTS, joined};
use crate::scenario::{Scenario, sleep};
use crate::world::World;

pub(super) fn all() -> Vec<Scenario> {
    let mut all = vec![
        Scenario::new("no-descriptors", "the daemons may open no more files for 6 s", descriptors)
            .recovers(),
        Scenario::new("log-pipe-full", "the daemons' standard output is never read", unread)
            .with("LOG_LEVEL", "debug")
            .unread_stdout(),
    ];
    // Mounting a file system needs root.
    if rustix::process::geteuid().is_root() {
        all.insert(
            0,
            Scenario::new("temp-disk-full", "the temp disks are full for 7 s", disk_full)
                .recovers(),
        );
    }
    all
}

impl Scenario {
    fn unread_stdout(mut self) -> Self {
        self.setup.unread_stdout = true;
        self
    }
}

fn unread(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async { joined(world.ledger.feed(OBJECTS, Duration::from_secs(4))).await })
}

/// A small file system on a folder, until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn on(folder: &Path) -> Result<Self> {
        let options = ["-t", "tmpfs", "-o", "size=12m", "avscan-chaos"];
        let mounted = Command::new("mount").args(options).arg(folder).status().context("mount")?;
        mounted.success().then(|| Self(folder.to_owned())).context("mount failed")
    }

    fn fill(&self) -> Result<()> {
        let filler = std::fs::File::create(self.0.join("filler")).context("filler")?;
        let mut filler = std::io::BufWriter::new(filler);
        // Until the disk is full.
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        // The rest in the buffer does not fit either.
        drop(filler.into_parts());
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        std::fs::remove_file(self.0.join("filler")).context("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount, because the daemons may still have files open there.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn disk_full(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let mut disks = Vec::new();
        for daemon in &world.daemons {
            disks.push(SmallDisk::on(Path::new(&daemon.env()["TMPDIR"]))?);
        }
        let fed = world.while_feeding(OBJECTS, 7, async |world| {
            sleep(2.0).await;
            disks.iter().try_for_each(SmallDisk::fill)?;
            world.down_for(Duration::from_secs(7)).await?;
            disks.iter().try_for_each(SmallDisk::clear)?;
            world.healed();
            Ok(())
        });
        fed.await?;
        world.disks = disks.into_iter().map(|disk| Box::new(disk) as Box<dyn Send>).collect();
        Ok(())
    })
}

fn descriptors(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        let limit = |world: &World, current: Option<u64>| {
            world.daemons.iter().try_for_each(|daemon| {
                let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok());
                let pid = pid.and_then(Pid::from_raw).context("the daemon does not run")?;
                let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
                    .context("descriptors")?
                    .count();
                let current = current.unwrap_or(open as u64);
                let new = Rlimit { current: Some(current), maximum: Some(4096) };
                prlimit(Some(pid), Resource::Nofile, new).map(drop).context("prlimit")
            })
        };
        let fed = world.while_feeding(OBJECTS, 7, async |world| {
            sleep(2.0).await;
            limit(world, None)?;
            world.down_for(Duration::from_secs(6)).await?;
            limit(world, Some(4096))?;
            world.healed();
            Ok(())
        });
        fed.await
    })
}
