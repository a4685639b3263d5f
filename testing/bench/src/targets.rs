//! The targets for the daemon. A missed target is printed but is no error: on a busy machine any
//! target can be missed.

use crate::floor::AIMED;
use crate::results::{Results, Target};
use crate::rig::Engine;
use crate::stats::u64_as_f64;

/// The targets for which there are measurements.
pub(super) fn judge(results: &Results) -> Vec<Target> {
    let mut all = Vec::new();
    let mut add = |what: &str, wanted: &str, measured: String, met: bool| {
        let (what, wanted) = (what.to_owned(), wanted.to_owned());
        all.push(Target { what, wanted, measured, met });
    };
    let of = |set: &'static str| {
        results.cases.iter().filter(move |case| case.set == set && !case.reports)
    };
    for case in of("10KiB") {
        for row in &case.rows {
            let name = format!("10 KiB, {} slots, {}", case.slots, row.engine.name());
            let (cpu, share) = (row.cpu_ms_per_object.median, row.share.median);
            let measured = format!("{cpu:.2} ms");
            add(&format!("{name}: CPU of the daemon an object"), "≤ 2 ms", measured, cpu <= 2.0);
            let measured = format!("{:.0} %", share * 100.0);
            add(&format!("{name}: its share of all CPU"), "≤ 35 %", measured, share <= 0.35);
        }
    }
    for set in ["64MiB", "1GiB"] {
        for case in of(set) {
            let Some(row) = case.row_of(Engine::Clamd) else { continue };
            let size = set.replace("MiB", " MiB").replace("GiB", " GiB");
            if case.slots == 1 {
                let ratio = row.to_clamd.median;
                let measured = format!("{:.0} %", ratio * 100.0);
                let what = format!("{size}, one slot: of clamd's own rate with one stream");
                add(&what, "≥ 85 %", measured, ratio >= 0.85);
            } else {
                let ratio = row.to_pair.median;
                let measured = format!("{:.0} %", ratio * 100.0);
                let slots = case.slots;
                let what =
                    format!("{size}, {slots} slots: of what clamd and the store reach together");
                add(&what, "≥ 85 %", measured, ratio >= 0.85);
            }
        }
    }
    if let Some(memory) = &results.memory {
        let (peak, what) = (memory.peak_mib(), format!("{} slots, {}", memory.slots, memory.set));
        let measured = format!("{peak:.1} MiB");
        add(&format!("{what}: peak resident memory"), "≤ 48 MiB", measured, peak <= 48.0);
    }
    if let Some(growth) = &results.growth {
        let off = growth.replicas.unfairness;
        let what = format!("{} daemons on one queue: off the mean", growth.replicas.objects.len());
        add(&what, "≤ 20 %", format!("{:.0} %", off * 100.0), off <= 0.2);
    }
    if let Some(start) = &results.start {
        let ready = start.spread.median;
        add("ready after the start", "< 300 ms", format!("{ready:.0} ms"), ready < 300.0);
    }
    let megabytes = u64_as_f64(results.machine.binary_bytes) / 1e6;
    let measured = format!("{megabytes:.1} MB");
    // 18 before audits, sweeps, quarantine, the status page and traces.
    add("size of the program", "< 21 MB", measured, megabytes < 21.0);
    if let Some(intake) = &results.intake {
        if let Some(row) = intake.rows.last() {
            let (ratio, senders) = (row.ratio.median, row.senders);
            let what = format!("intake, {senders} requests in flight: of bare confirmed publishes");
            add(&what, "≥ 40 %", format!("{:.0} %", ratio * 100.0), ratio >= 0.4);
        }
        let p99 = intake.times.p99;
        let measured = format!("{p99:.1} ms");
        add("intake at half of that rate: p99 of the answers", "< 50 ms", measured, p99 < 50.0);
    }
    for row in results.audit.iter().flat_map(|audit| &audit.rows) {
        let ratio = row.ratio.median;
        let what = format!("audit, {} at once: of bare requests for tags", row.concurrency);
        add(&what, "≥ 65 %", format!("{:.0} %", ratio * 100.0), ratio >= 0.65);
    }
    if let Some(floor) = &results.floor {
        for row in floor.rows.iter().filter(|row| row.set == "10KiB" && AIMED.contains(&row.slots))
        {
            let (of, least) = if row.versioned { ("with", 0.8) } else { ("without", 0.65) };
            let what = format!("10 KiB, {of} versions, {} slots: of the floor", row.slots);
            let (ratio, wanted) = (row.ratio.median, format!("≥ {:.0} %", least * 100.0));
            add(&what, &wanted, format!("{:.0} %", ratio * 100.0), ratio >= least);
        }
        for tail in &floor.tails {
            let of = if tail.versioned { "with" } else { "without" };
            let what = format!("10 KiB, {of} versions, half load: p99, of the floor's");
            let ratio = tail.daemon.p99 / tail.floor.p99;
            add(&what, "≤ 1.5", format!("{ratio:.2}"), ratio <= 1.5);
        }
    }
    if let Some(backlog) = &results.backlog {
        let ratio = backlog.last_tenth / backlog.first_tenth;
        let measured = format!("{:.0} %", ratio * 100.0);
        let what = format!("{} notifications: last tenth's rate", backlog.notifications);
        add(&what, "≥ 80 % of the first's", measured, ratio >= 0.8);
    }
    if let Some(sweep) = &results.sweep {
        let (slower, share) = (sweep.slower.median, sweep.share.median);
        let what = "10 KiB at a quarter of the highest rate: p95 beside a sweep, of p95 alone";
        add(what, "≤ 2.0", format!("{slower:.2}"), slower <= 2.0);
        let what = "the sweep beside it: of the rate that the live objects leave";
        add(what, "≥ 60 %", format!("{:.0} %", share * 100.0), share >= 0.6);
    }
    all
}
