//! Log lines: text that starts with the service's name in brackets, or JSON; to standard output
//! and, if wanted, to a file as well.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogSettings;

const PREFIX: &str = concat!("[", env!("CARGO_PKG_NAME"), "] ");

/// The target of lines that are written at any level.
pub(crate) const AUDIT: &str = "bucket_av_scanner::audit";

/// Starts logging.
///
/// # Errors
/// When the log file cannot be opened, or logging was started before.
pub fn init(settings: &LogSettings) -> io::Result<()> {
    let file = match &settings.file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
                io::Error::new(e.kind(), format!("LOG_FILE {}: {e}", path.display()))
            })?;
            Some(Arc::new(file))
        }
        None => None,
    };
    // Other people's crates speak only when something is wrong with them, unless everything is
    // asked for.
    let others = if settings.level == tracing::Level::TRACE {
        LevelFilter::TRACE
    } else {
        LevelFilter::from_level(settings.level.min(tracing::Level::WARN))
    };
    let filter = Targets::new()
        .with_default(others)
        .with_target("bucket_av_scanner", settings.level)
        // It reports every lost connection as an error of its own; the session that loses it says so.
        .with_target(
            "lapin",
            LevelFilter::OFF.max(match settings.level {
                tracing::Level::TRACE => LevelFilter::TRACE,
                _ => LevelFilter::OFF,
            }),
        );
    let filter = filter.with_target(AUDIT, LevelFilter::WARN);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(Output { file });
    let started = if settings.json {
        registry.with(layer.json().flatten_event(true).with_current_span(true)).try_init()
    } else {
        registry
            .with(
                layer.with_ansi(false).event_format(Bracketed(format::format().with_target(false))),
            )
            .try_init()
    };
    started.map_err(io::Error::other)
}

/// Puts the service's name before each line, so that the lines of several containers can be told
/// apart in one stream.
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

struct Output {
    file: Option<Arc<File>>,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Tee<'a>;

    fn make_writer(&'a self) -> Tee<'a> {
        Tee { file: self.file.as_deref() }
    }
}

/// Writes to standard output and the file. A log that cannot be written (a closed pipe, a full
/// disk) must not stop scans, so errors end here.
struct Tee<'a> {
    file: Option<&'a File>,
}

impl Write for Tee<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(mut file) = self.file {
            drop(file.write_all(line));
        }
        drop(io::stdout().lock().write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(io::stdout().lock().flush());
        Ok(())
    }
}
