//! How many requests one object may cost its store.
//!
//! Counts the requests for a key, divided by the deliveries of its notifications from any queue. A
//! HEAD while no delivery of that key was in progress is left out: it is a probe whether the store
//! works, made because of another object. The number of probes grows with the objects that fail,
//! not with this one. So is, where there are sweeps, such a request for tags: a sweep looks at each
//! object before it announces it.

use std::collections::HashMap;

use peers::proxy::{Handed, Op, TcpProxy};

use crate::tally::{Expected, Tally};
use crate::world::World;

/// For one delivery while the store works: three rounds of two GETs, a HEAD before and after an
/// effect, and reading and setting tags; with a reserve for another spelling of the key, a second
/// look, and an effect to be undone.
const MOST: usize = 25;
/// The same where the client repeats each request up to three times.
const MOST_REPEATED: usize = 3 * MOST;

pub(super) fn count(world: &World, expected: Expected, tally: &mut Tally) {
    let mut handed: HashMap<String, Vec<Handed>> = HashMap::new();
    for delivery in world.brokers.iter().flat_map(TcpProxy::handed) {
        handed.entry(delivery.key.clone()).or_default().push(delivery);
    }
    let mut asked: HashMap<String, usize> = HashMap::new();
    for request in world.store.asked() {
        let in_hand = handed.get(&request.key).is_some_and(|deliveries| {
            deliveries.iter().any(|delivery| {
                delivery.at <= request.at && delivery.settled.is_none_or(|at| request.at <= at)
            })
        });
        let is_look = request.op == Op::Head || (expected.swept && request.op == Op::Tags);
        if in_hand || !is_look {
            *asked.entry(request.key).or_default() += 1;
        }
    }
    let most = if expected.store_fails { MOST_REPEATED } else { MOST };
    let known = world.ledger.uploads();
    let mut keys: Vec<&str> = known.iter().map(|upload| upload.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let requests = asked.get(key).copied().unwrap_or_default();
        let deliveries = handed.get(key).map_or(0, Vec::len);
        if deliveries == 0 && requests > 0 {
            // Without deliveries there is no ratio.
            tally.wrongs.push(format!("{key}: {requests} requests, and no delivery was seen"));
            continue;
        }
        let each = requests.div_ceil(deliveries.max(1));
        tally.requests = tally.requests.max(each);
        if each > most {
            let what = format!("{key}: {requests} requests in {deliveries} deliveries");
            tally.wrongs.push(format!("{what}, at most {most} each are allowed"));
        }
    }
}
