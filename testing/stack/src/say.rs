//! Talking to the person at the terminal.

use std::fmt::Arguments;
use std::io::Write;

/// Prints a line; when nobody reads any more, the work goes on all the same.
pub fn line(text: Arguments<'_>) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// `println!` that does not panic on a closed pipe: a service that was started
/// must be written down, whoever listens.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
