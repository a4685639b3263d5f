//! A virus scanner for the objects of S3 buckets, driven by their notifications.
//!
//! # Layout
//!
//! Data flows one way through rooms, and a room imports only those before it:
//!
//! - `verdict` is what is known of an object's bytes;
//! - `queue` turns `RabbitMQ` into deliveries and settles each exactly once;
//! - `event` parses a notification into the objects that it announces;
//! - `store` fetches, tags, copies and deletes one exact version of an object;
//! - `scanner` streams a download to an engine and reads its verdict;
//! - `policy` says what a verdict means for the object, rules included;
//! - `receipt` signs and checks receipts, and says what an object's tags prove;
//! - `report` is the result of one object: its JSON, its id;
//! - `quarantine` says what is kept of an object that is moved: the name of its copy, its record;
//! - `canary` proves that uploads are announced, with objects of its own;
//! - `surge` holds back the deletions by a signature that finds too much;
//! - `pipeline` runs one object through fetch, scan, plan and effects;
//! - `courier` delivers one report to the webhook;
//! - `intake` takes a store's webhook and confirms it into the notifications queue;
//! - `sweep` walks a bucket: the standing of each object, and where to go on;
//! - `worker` keeps deliveries in flight, decides what becomes of failed ones, drains;
//! - [`app`] builds all of it from the configuration and keeps a broker session alive.
//!
//! Beside the rooms stand services, which import no room: [`config`], `failure`, `retry`,
//! `http`, `tls`, `quantity`, `health`, `hints`, `overview`, `metrics`, `server`, `admin`, [`telemetry`],
//! [`shutdown`], `clock`, `trace`.
//!
//! Two promises decide every trade-off: nothing is called clean or deleted but by an explicit
//! verdict on its very bytes, and no notification ends otherwise than applied and reported, or
//! parked and reported.

mod verdict;

mod queue;

mod event;

mod store;

mod scanner;

mod policy;

mod receipt;

mod report;

mod quarantine;

mod canary;

mod surge;

mod pipeline;

mod courier;

mod intake;

mod sweep;

mod worker;

pub mod app;

mod admin;
mod clock;
pub mod config;
mod failure;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod hints;
mod http;
mod metrics;
mod overview;
mod quantity;
mod retry;
mod server;
pub mod shutdown;
pub mod telemetry;
mod tls;
mod trace;
