//! The services around the daemon on one machine, and their clients.
//!
//! # Layout
//!
//! From the bottom up; nothing imports what comes later:
//! - [`mod@say`], [`runtime`], [`process`], [`ports`], [`place`]: the terminal, asynchronous code,
//!   processes, ports, and where files are;
//! - [`state`]: what a stack knows about itself; [`ready`]: whether its services are ready;
//! - [`s3`], [`amqp`]: clients of store and broker; [`webhooks`]: from the store's webhook to the
//!   daemons' intakes;
//! - [`teardown`] and [`launch`]: take a stack down, bring it up or repair it;
//! - [`clamd`], [`seaweed`]: services of a test's own; [`Stack`]: the one that is up; [`daemon`]: the
//!   daemon under test beside it;
//! - [`demo`] and [`cli`]: the `stack` program.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::expect_used, reason = "a test's tool that cannot go on has failed the test")]
#![expect(clippy::format_collect, reason = "clearer than a fold with a write that cannot fail")]
#![expect(clippy::print_stderr, reason = "programs tell people what went wrong")]

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
