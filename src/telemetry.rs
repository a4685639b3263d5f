//! Log lines, as text that starts with the service's name in brackets or as JSON, to standard
//! output and optionally to a file.

mod outlet;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use self::outlet::Outlet;
use crate::config::LogSettings;

const PREFIX: &str = concat!("[", env!("CARGO_PKG_NAME"), "] ");

/// The target of audit lines, which are written at any level.
pub(crate) const AUDIT: &str = "bucket_av_scanner::audit";

/// How long the process waits at its end for unwritten lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The running log. Drop it last: it waits for unwritten lines.
#[must_use]
pub struct Log(Vec<Outlet>);

impl Drop for Log {
    fn drop(&mut self) {
        let end = Instant::now() + FLUSH_TIMEOUT;
        for outlet in &self.0 {
            outlet.flush(end);
        }
    }
}

/// Starts logging.
///
/// # Errors
/// When the log file cannot be opened, or logging is running already.
pub fn init(settings: &LogSettings) -> io::Result<Log> {
    let mut outlets = vec![Outlet::start("standard output", io::stdout())?];
    if let Some(path) = &settings.file {
        let file =
            OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
                io::Error::new(e.kind(), format!("LOG_FILE {}: {e}", path.display()))
            })?;
        outlets.push(Outlet::start("LOG_FILE", file)?);
    }
    let registry = tracing_subscriber::registry().with(filter(settings.level));
    let layer = tracing_subscriber::fmt::layer().with_writer(Output(outlets.clone()));
    let started = if settings.json {
        registry.with(layer.json().flatten_event(true).with_current_span(true)).try_init()
    } else {
        registry
            .with(
                layer.with_ansi(false).event_format(Bracketed(format::format().with_target(false))),
            )
            .try_init()
    };
    started.map_err(io::Error::other)?;
    Ok(Log(outlets))
}

/// Libraries log warnings and errors alone, and up to DEBUG where `level` is TRACE. Their own TRACE
/// is never written: at that level clients print what they send, logins and keys included.
fn filter(level: Level) -> Targets {
    let (others, lapin) = if level == Level::TRACE {
        (LevelFilter::DEBUG, LevelFilter::DEBUG)
    } else {
        // lapin logs every lost connection as an error; the session that loses it logs that too.
        (LevelFilter::from_level(level.min(Level::WARN)), LevelFilter::OFF)
    };
    Targets::new()
        .with_default(others)
        .with_target("bucket_av_scanner", level)
        .with_target("lapin", lapin)
        .with_target(AUDIT, LevelFilter::WARN)
}

/// Puts the service's name before each line, so that lines of several containers can share one
/// stream.
struct Bracketed(format::Format);

impl<S, N> FormatEvent<S, N> for Bracketed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        writer.write_str(PREFIX)?;
        self.0.format_event(context, writer, event)
    }
}

/// Writes every line to every outlet.
struct Output(Vec<Outlet>);

impl<'a> MakeWriter<'a> for Output {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines { outlets: &self.0, audit: false }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Lines<'a> {
        Lines { outlets: &self.0, audit: of.target() == AUDIT }
    }
}

/// The writer of one line: the formatter writes a line in one call.
struct Lines<'a> {
    outlets: &'a [Outlet],
    audit: bool,
}

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for outlet in self.outlets {
            outlet.put(line, self.audit);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_print_of_their_frames_is_never_written() {
        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            let filter = filter(level);
            for target in ["lapin::io_loop", "lapin", "amq_protocol", "hyper::proto", "aws_sigv4"] {
                assert!(!filter.would_enable(target, &Level::TRACE), "{target} at {level}");
            }
            assert!(filter.would_enable("bucket_av_scanner::queue", &level));
            assert!(filter.would_enable(AUDIT, &Level::WARN));
        }
    }
}
