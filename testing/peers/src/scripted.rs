//! Servers that do exactly what a test says, including errors in the protocol.
//!
//! They run on their own threads with plain sockets, so that they work in any test, blocking or
//! not, and can break the protocol at any byte. Each listens on a free port, and ends with all its
//! connections when dropped.

pub mod amqp;
mod http;
pub mod store;
pub mod tcp;
mod wire;

pub use http::{Reply, Request, Server};
pub use store::Store;
