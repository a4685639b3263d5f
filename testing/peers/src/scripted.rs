//! Servers that do exactly what a test says, wrong things above all.
//!
//! They run on threads of their own with plain sockets, so that they work in
//! any test, blocking or not, and can break the protocol at any byte. Each
//! listens on a free port and ends when dropped, taking its connections along.

pub mod amqp;
mod http;
pub mod store;
pub mod tcp;
mod wire;

pub use http::{Reply, Request, Server};
pub use store::Store;
