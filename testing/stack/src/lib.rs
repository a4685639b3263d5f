//! The services around the daemon on one machine, and their clients.
//!
//! # Layout
//!
//! From the bottom up; nothing imports what comes later:
//! - [`mod@say`], [`runtime`], [`process`], [`ports`], [`place`]: the terminal, asynchronous code,
//!   processes, ports, and where files are;
//! - [`state`]: the record of a stack; [`ready`]: whether its services are ready;
//! - [`s3`], [`amqp`]: clients of store and broker; [`webhooks`]: from the store's webhook to the
//!   daemons' intakes;
//! - [`teardown`] and [`launch`]: stop a stack, start or repair it;
//! - [`clamd`], [`seaweed`]: services for one test; [`Stack`]: the running stack; [`daemon`]: the
//!   daemon under test beside it;
//! - [`demo`] and [`cli`]: the `stack` program.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::expect_used, reason = "a tool of tests that cannot go on fails the test")]
#![expect(clippy::format_collect, reason = "clearer than a fold with a write that cannot fail")]
#![expect(clippy::print_stderr, reason = "errors of a command line program")]

#[macro_use]
pub mod say;

pub mod amqp;
pub mod clamd;
pub mod cli;
pub mod daemon;
pub mod demo;
pub mod launch;
pub mod place;
pub mod ports;
pub mod process;
pub mod ready;
pub mod runtime;
pub mod s3;
pub mod seaweed;
pub mod stack;
pub mod state;
pub mod teardown;
pub mod webhooks;

pub use amqp::Amqp;
pub use clamd::Clamd;
pub use daemon::Daemon;
pub use s3::S3;
pub use seaweed::Seaweed;
pub use stack::{Service, Stack};
