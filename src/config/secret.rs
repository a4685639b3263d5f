//! A secret that can be replaced while the daemon runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};

/// A secret setting; `Debug` hides it. One from `NAME_FILE` is read again when a peer refuses it.
/// Clones share the value read last.
#[derive(Clone)]
pub(crate) struct Secret(Arc<Inner>);

struct Inner {
    held: Mutex<SecretString>,
    source: Option<Source>,
    /// What was wrong with the file when it was last read, so that it is warned about once.
    complaint: Mutex<Option<Complaint>>,
}

/// Why the file has no new value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Complaint {
    Unreadable(io::ErrorKind),
    Empty,
    Unusable,
}

/// Where a secret can be read again.
struct Source {
    variable: &'static str,
    path: PathBuf,
    usable: fn(&str) -> bool,
}

impl Secret {
    /// The secret `text`, read from the file at `path` that `variable` with `_FILE` names. A later
    /// value that is not `usable` never replaces it.
    pub(super) fn from_file(
        text: &str,
        variable: &'static str,
        path: PathBuf,
        usable: fn(&str) -> bool,
    ) -> Self {
        let source = Some(Source { variable, path, usable });
        Self::new(text, source)
    }

    fn new(text: &str, source: Option<Source>) -> Self {
        let complaint = Mutex::default();
        Self(Arc::new(Inner { held: Mutex::new(text.into()), source, complaint }))
    }

    /// The value read last.
    #[must_use]
    pub(crate) fn held(&self) -> SecretString {
        self.lock().clone()
    }

    /// Reads the file again, without a refusal. For a secret that the daemon itself checks: a value
    /// that was removed from the file must stop working. Returns whether the value is a new one.
    pub(crate) fn reread(&self) -> bool {
        let held = self.held();
        self.replaced_after(&held)
    }

    /// Reads the file again after a peer refused `refused`; returns whether the value differs from
    /// that now.
    ///
    /// Only a refusal replaces a secret that a peer checks: the file may be updated before the peer
    /// is. A file that is missing, empty or unusable, as during its replacement, leaves the old value
    /// in place.
    pub(crate) fn replaced_after(&self, refused: &SecretString) -> bool {
        if let Some(Source { variable, path, usable }) = &self.0.source {
            let complaint = match read(path) {
                Ok(text) if text == self.held().expose_secret() => None,
                Ok(text) if text.is_empty() => Some(Complaint::Empty),
                Ok(text) if usable(&text) => {
                    tracing::info!("{variable}_FILE has a new value: it is used from now on");
                    *self.lock() = text.into();
                    None
                }
                Ok(_) => Some(Complaint::Unusable),
                Err(error) => Some(Complaint::Unreadable(error.kind())),
            };
            self.complain(variable, complaint);
        }
        self.lock().expose_secret() != refused.expose_secret()
    }

    /// Warns of what is wrong with the file, once for each change.
    fn complain(&self, variable: &str, complaint: Option<Complaint>) {
        let mut before = self.0.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *before, complaint) == complaint {
            return;
        }
        match complaint {
            None => {}
            Some(Complaint::Unreadable(kind)) => {
                tracing::warn!("{variable}_FILE cannot be read ({kind}): keeping the old value");
            }
            Some(Complaint::Empty) => {
                tracing::warn!("{variable}_FILE is empty: keeping the old value");
            }
            Some(Complaint::Unusable) => {
                tracing::warn!("{variable}_FILE has an unusable value: keeping the old one");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, SecretString> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A secret that is never replaced.
impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text, None)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The text of a file without the final newline that editors and `echo` add.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_only_by_a_usable_one_and_only_after_a_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::from_file("old", "X", path.clone(), |text| text != "bad");
        let clone = secret.clone();
        let held = || secret.held().expose_secret().to_owned();
        assert!(!secret.replaced_after(&"old".into()), "there is no file");
        for text in ["", "\n", "bad", "old\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(!secret.replaced_after(&"old".into()), "{text:?} was taken");
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert!(!secret.replaced_after(&"old".into()));
        std::fs::write(&path, " new \r\n").unwrap();
        assert_eq!(held(), "old");
        assert!(secret.replaced_after(&"old".into()));
        assert_eq!(held(), " new ");
        // Somebody else was refused with the old one, and comes a little later.
        assert!(clone.replaced_after(&"old".into()));
        assert!(!clone.replaced_after(&" new ".into()));
        assert_eq!(format!("{secret:?}"), "***");
    }

    #[test]
    fn what_is_wrong_with_the_file_is_kept_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::from_file("old", "X", path.clone(), |text| text != "bad");
        let complaint = || *secret.0.complaint.lock().unwrap();
        assert!(!secret.reread());
        assert_eq!(complaint(), Some(Complaint::Unreadable(io::ErrorKind::NotFound)));
        for (text, expected, new) in [
            ("", Some(Complaint::Empty), false),
            ("bad", Some(Complaint::Unusable), false),
            ("old", None, false),
            ("new", None, true),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!((secret.reread(), complaint()), (new, expected), "{text}");
        }
    }

    #[test]
    fn one_without_a_file_stays() {
        let secret = Secret::from("x");
        assert!(!secret.replaced_after(&"x".into()));
        assert_eq!(secret.held().expose_secret(), "x");
    }
}
