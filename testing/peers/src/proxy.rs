//! Proxies between the daemon and a real service: they forward the traffic, inject faults on
//! demand, and record it.

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
