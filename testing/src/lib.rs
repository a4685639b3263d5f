//! A whole stack on one machine, and scripted peers, to try the daemon
//! against.
//!
//! # Layout
//!
//! The stack, started and stopped by the `stack` program:
//! - [`launch`] brings it up or repairs it, [`teardown`] takes it down;
//! - [`state`] is what it knows about itself, [`place`] where its files are,
//!   [`process`] the processes, [`ready`] whether they are ready, [`ports`]
//!   where they listen;
//! - [`bridge`], [`sink`] and [`clamav_rest`] are its services that are ours;
//! - [`cli`] is the program, [`demo`] its show, [`chaos`] the guarantees under
//!   faults, with a [`proxy`] in front of everything, [`mod@bench`] the speed.
//!
//! For tests that run against a stack: [`Stack`] and its [`Service`]s,
//! [`Daemon`], [`S3`], [`Amqp`], [`notification`], [`eicar`] and [`zip`].
//!
//! For tests without one: [`scripted`] servers that do exactly what a test
//! says, be it HTTP or clamd's protocol, and a [`scripted::Store`] that behaves
//! as S3 until a test spoils it.

#[macro_use]
mod say;

pub mod amqp;
pub mod bench;
pub mod bridge;
pub mod chaos;
pub mod clamav_rest;
pub mod clamd;
pub mod cli;
pub mod daemon;
pub mod demo;
pub mod eicar;
pub mod error;
pub mod launch;
pub mod notification;
pub mod place;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod ready;
pub mod s3;
pub mod scripted;
pub mod seaweed;
pub mod sink;
pub mod stack;
pub mod state;
pub mod teardown;
pub mod tls;
mod web;
pub mod zip;

pub use amqp::Amqp;
pub use clamav_rest::ClamavRest;
pub use clamd::Clamd;
pub use daemon::Daemon;
pub use error::{Error, Result};
pub use s3::S3;
pub use seaweed::Seaweed;
pub use sink::Sink;
pub use stack::{Service, Stack};
pub use tls::Authority;
