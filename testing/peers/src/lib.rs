//! Stand-ins for the services around the daemon, and proxies between them and it. Nothing here
//! needs a running stack.
//!
//! # Layout
//!
//! From the bottom up; nothing imports what comes later:
//! - [`error`]: one plain error, for all of the testing crates;
//! - [`eicar`], [`zip`], [`notification`]: what tests upload and announce;
//! - [`frames`]: AMQP as it passes on a connection;
//! - [`web`]: the HTTP server that the next two are built on: [`sink`], which receives reports, and
//!   [`clamav_rest`], a double of that engine;
//! - [`tls`]: a certificate authority, and TLS in front of services that have none;
//! - [`proxy`]: proxies that inject faults, and record the traffic;
//! - [`scripted`]: servers that do exactly what a test says, for HTTP, AMQP and clamd's protocol,
//!   and a [`scripted::Store`] that behaves as S3 unless a test changes its answers.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::expect_used, reason = "a server whose script panicked must not go on")]
#![expect(clippy::format_collect, reason = "clearer than a fold with a write that cannot fail")]
#![expect(clippy::print_stderr, reason = "some of it runs as a process, with a log for its errors")]

pub mod clamav_rest;
pub mod eicar;
pub mod error;
pub mod frames;
pub mod notification;
pub mod proxy;
pub mod scripted;
pub mod sink;
pub mod tls;
pub mod web;
pub mod zip;

pub use clamav_rest::ClamavRest;
pub use error::{Error, Result};
pub use sink::Sink;
pub use tls::Authority;
