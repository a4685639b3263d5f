//! Proxies that stand between the daemon and a real service: they carry what is said, break it on
//! demand, and remember it.

mod deliveries;
mod engine;
mod http;
mod script;
mod tcp;

pub use deliveries::Handed;
pub use engine::{EngineFault, EngineProxy, Scan};
pub use http::{Asked, Call, Fault, HttpProxy, Op, Said};
pub use script::Hook;
pub use tcp::TcpProxy;
