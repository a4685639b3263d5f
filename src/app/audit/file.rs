//! Where a result is written: standard output, or a file that has its name only when it is whole.

use std::fs::Permissions;
use std::io::{self, Stdout, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A destination that is being written.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout(Stdout),
    File { temp: NamedTempFile, path: PathBuf },
}

/// Whether `path` means standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

impl Sink {
    /// Begins to write to `path`, or to standard output for `-`.
    ///
    /// # Errors
    /// When the folder cannot be written; names the file.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        if is_stdout(path) {
            return Ok(Self::Stdout(io::stdout()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let temp = tempfile::Builder::new()
            .prefix(".audit-")
            // The umask takes away what others may not.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")));
        let temp = temp.map_err(|error| cannot_write(path, &error))?;
        Ok(Self::File { temp, path: path.to_owned() })
    }

    /// Gives the file its name: `FILE`, or `FILE.part` if the audit did not come to its end.
    ///
    /// # Errors
    /// When it cannot be written to its end or renamed; names the file.
    pub(super) fn finish(mut self, whole: bool) -> Result<(), String> {
        let flushed = self.flush();
        let Self::File { temp, path } = self else {
            // A reader that went away must not change the result.
            return Ok(());
        };
        flushed.map_err(|error| cannot_write(&path, &error))?;
        let target = if whole { path.clone() } else { part(&path) };
        match temp.persist(&target) {
            Ok(_) => Ok(()),
            Err(error) => Err(cannot_write(&target, &error.error)),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File { temp, .. } => temp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::File { temp, .. } => temp.flush(),
        }
    }
}

/// Writes a whole text.
///
/// # Errors
/// As [`Sink::open`] and [`Sink::finish`].
pub(super) fn write(path: &Path, text: &str, whole: bool) -> Result<(), String> {
    let mut sink = Sink::open(path)?;
    sink.write_all(text.as_bytes()).map_err(|error| cannot_write(path, &error))?;
    sink.finish(whole)
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        let mut sink = Sink::open(&path).unwrap();
        sink.write_all(b"half").unwrap();
        assert!(!path.exists());
        sink.finish(false).unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::read(folder.path().join("out.json.part")).unwrap(), b"half");
        write(&path, "whole", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        let nowhere = folder.path().join("no/such/folder");
        assert!(write(&nowhere, "x", true).unwrap_err().contains("no/such/folder cannot"));
    }
}
