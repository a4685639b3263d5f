//! From a program's `main` into asynchronous code.

use peers::error::{Context, Result};

/// Runs a future to its end on a runtime made for it.
///
/// # Errors
/// What the future says, or that there can be no runtime.
pub fn blocking<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("runtime")?.block_on(work)
}
