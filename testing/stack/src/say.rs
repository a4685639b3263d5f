//! Output for the user at the terminal.

use std::fmt::Arguments;
use std::io::Write;

/// Prints a line. A closed pipe is no error: the work goes on.
pub fn line(text: Arguments<'_>) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// `println!` that does not panic on a closed pipe: a service that was started must still be
/// recorded.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
