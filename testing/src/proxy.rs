//! Proxies that stand between the daemon and a real service: they carry what is said, break it on
//! demand, and remember it.

mod engine;
mod http;
mod tcp;

pub use engine::{Deed, EngineProxy, Scan};
pub use http::{Call, Fault, HttpProxy, Op, Said};
pub use tcp::TcpProxy;

use futures_util::future::BoxFuture;

/// Something that happens while a call is under way.
pub type Meanwhile = BoxFuture<'static, ()>;
