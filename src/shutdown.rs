//! Stops the daemon at a signal.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT. A second signal ends the process at
/// once, for an operator who does not want to wait: what was running is redelivered.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal = name, "stopping: no new deliveries, finishing what runs");
                stop.cancel();
            } else {
                tracing::warn!(signal = name, "second signal: stopping at once");
                #[expect(clippy::disallowed_methods, reason = "the operator asked not to wait")]
                std::process::exit(1);
            }
        }
    });
    Ok(token)
}
