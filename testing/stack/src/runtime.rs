//! Runs asynchronous code from a program's `main`.

use peers::error::{Context, Result};

/// Runs a future to its end on a new runtime.
///
/// # Errors
/// The future's error, or that no runtime can be made.
pub fn blocking<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("runtime")?.block_on(work)
}
