//! Requests for one object, counted by proxies in front of store and engine. Never counted while
//! anything is timed.

use std::collections::BTreeMap;

use peers::error::Result;
use peers::proxy::{EngineProxy, HttpProxy, Op};
use serde::Serialize;

use crate::drain::Check;
use crate::rig::{Engine, Rig, Settings};
use crate::sets::{MIB, Object};

/// Objects that are counted, one after the other.
const OBJECTS: usize = 5;

/// Requests and scans for these objects only.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Operations {
    pub(super) objects: usize,
    /// Requests to the store in the order of the last object: the first one shows what the store tells.
    pub(super) last: Vec<String>,
    /// Requests to the store that name one of the objects, by operation.
    pub(super) store: BTreeMap<String, usize>,
    /// Requests that name none: probes.
    pub(super) store_others: usize,
    /// Samples that reached the engine, including self-tests with EICAR.
    pub(super) scans: usize,
}

/// Drains a few clean objects through the proxies, with one slot.
///
/// # Errors
/// When an object ends in the wrong state.
pub(super) async fn count(rig: &mut Rig, objects: &[Object]) -> Result<Operations> {
    let store = HttpProxy::start(&rig.stack.settings().s3_url).await?;
    let engine = EngineProxy::start(&rig.stack.settings().clamd_socket).await?;
    let few: Vec<&Object> =
        objects.iter().filter(|object| !object.infected).take(OBJECTS).collect();
    let settings = Settings::new(Engine::Clamd, 1, MIB);
    let (url, endpoint) = (store.url(), format!("tcp://{}", engine.address()));
    rig.detour = Some((url, endpoint));
    let drained = rig.drain(&few, &settings, Check::All).await;
    rig.detour = None;
    drained?;

    let said = store.said();
    let name = |op: Op| match op {
        Op::Get => "GetObject",
        Op::Head => "HeadObject",
        Op::Tags => "GetObjectTagging",
        Op::SetTags => "PutObjectTagging",
        Op::Delete => "DeleteObject",
        Op::Put => "PutObject",
        Op::Copy => "CopyObject",
        Op::Other => "other",
    };
    let ours = |key: &str| few.iter().any(|object| object.key == key);
    let mut by_operation = BTreeMap::new();
    for said in said.iter().filter(|said| ours(&said.call.key)) {
        *by_operation.entry(name(said.call.op).to_owned()).or_default() += 1;
    }
    let last =
        said.iter().filter(|said| Some(&said.call.key) == few.last().map(|object| &object.key));
    Ok(Operations {
        objects: few.len(),
        last: last.map(|said| name(said.call.op).to_owned()).collect(),
        store: by_operation,
        store_others: said.iter().filter(|said| !ours(&said.call.key)).count(),
        scans: engine.scans().len(),
    })
}
