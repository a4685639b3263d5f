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
        // The library's own text names the temp file.
        let temp = temp.map_err(|error| cannot_write(path, &error.kind().into()))?;
        Ok(Self::File { temp, path: path.to_owned() })
    }

    /// Writes the whole text, and finishes.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(super) fn write_text(mut self, text: &str, whole: bool) -> Result<(), String> {
        match (self.write_all(text.as_bytes()), &self) {
            (Err(error), Self::File { path, .. }) => Err(cannot_write(path, &error)),
            (Err(error), Self::Stdout(_)) => to_stdout(Err(error)),
            (Ok(()), _) => self.finish(whole),
        }
    }

    /// Gives the file its name: `FILE`, or `FILE.part` if the audit did not come to its end.
    ///
    /// # Errors
    /// When it cannot be written to its end or renamed; names the file.
    pub(super) fn finish(mut self, whole: bool) -> Result<(), String> {
        let flushed = self.flush();
        let Self::File { temp, path } = self else { return to_stdout(flushed) };
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

/// What came of writing to standard output. A reader that went away must not change the result.
///
/// # Errors
/// When it cannot be written, as on a disk that is full.
pub(super) fn to_stdout(written: io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
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
        Sink::open(&path).unwrap().write_text("whole", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        let nowhere = folder.path().join("no/such/folder");
        let error = Sink::open(&nowhere).unwrap_err();
        assert!(error.contains("no/such/folder cannot") && !error.contains(".audit-"), "{error}");
    }
}
