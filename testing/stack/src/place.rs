//! Where things are: the checkout, the stack's folder, the tools; and the lock of a stack.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use peers::error::{Context, Error, Result};
use uuid::Uuid;

/// Set by Ctrl-C, so that waiting loops end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The checkout: the nearest parent folder with `testing/setup.sh`, else the one that this program
/// was built in.
#[must_use]
pub fn checkout() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let built_in =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/"));
    here.ancestors()
        .find(|folder| folder.join("testing/setup.sh").is_file())
        .unwrap_or(built_in)
        .to_path_buf()
}

/// The folder of the stack that commands work on by default.
///
/// # Errors
/// When `STACK_DIR` is not a usable path.
pub fn stack_dir() -> Result<PathBuf> {
    match std::env::var_os("STACK_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(dir).context("STACK_DIR"),
        None => Ok(checkout().join(".stack/run")),
    }
}

/// A folder that all stacks of the checkout share.
///
/// # Errors
/// When it cannot be made.
pub fn shared(name: &str) -> Result<PathBuf> {
    let folder = checkout().join(".stack").join(name);
    fs::create_dir_all(&folder).context(folder.display())?;
    Ok(folder)
}

/// A program from a package that `testing/setup.sh` put into the checkout, or one of that name on
/// `PATH`.
///
/// # Errors
/// When both are missing.
pub fn tool(package: &str, program: &str) -> Result<PathBuf> {
    let tools = checkout().join(".stack/tools");
    let mut versions: Vec<PathBuf> = tools
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{package}-")))
        .map(|entry| entry.path().join("bin").join(program))
        .filter(|file| file.is_file())
        .collect();
    versions.sort();
    versions
        .pop()
        .or_else(|| crate::process::which(program))
        .context(format!("{program} is missing: run testing/setup.sh"))
}

/// A file that marks a folder as a stack's, which may be emptied without asking.
const MARK: &str = ".bucket-av-scanner-stack";

/// Makes a folder, readable by its owner only, the folder of a stack.
///
/// # Errors
/// When it cannot be made, or holds other files.
pub fn claim(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).context(dir.display())?;
    if !is_stack(dir) {
        let strange = dir.read_dir().context(dir.display())?.next().is_some();
        if strange {
            let dir = dir.display();
            return Err(Error::new(format!("{dir} holds other files: choose an empty folder")));
        }
        fs::write(dir.join(MARK), "").context(dir.display())?;
    }
    let log = dir.join("log");
    fs::create_dir_all(&log).context(log.display())
}

/// Whether a folder belongs to a stack.
#[must_use]
pub fn is_stack(dir: &Path) -> bool {
    dir.join(MARK).is_file()
}

/// Locks the stack in `dir`, until dropped: for one command at a time.
///
/// # Errors
/// When the lock file cannot be made.
pub fn lock(dir: &Path) -> Result<fs::File> {
    // Next to the folder, because `stack down` removes the folder.
    let file = PathBuf::from(format!("{}.lock", dir.display()));
    let held = fs::File::create(&file).context(file.display())?;
    held.lock().context(file.display())?;
    Ok(held)
}

/// A random password.
#[must_use]
pub fn random_word() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A random signing secret in the notation of the Standard Webhooks specification.
#[must_use]
pub fn random_signing_secret() -> String {
    let bytes = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    format!("whsec_{}", STANDARD.encode(bytes))
}

/// A random Ed25519 private key in PEM. Source: RFC 8410, section 7.
#[must_use]
pub fn random_receipt_key() -> String {
    let prefix = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    let seed = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    let body = STANDARD.encode([prefix.as_slice(), &seed].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

/// Makes every waiting loop end soon.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether the user has interrupted the program.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
