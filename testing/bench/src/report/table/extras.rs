//! The tables of what is measured besides the sets.

use std::fmt::Write;

use super::{number, percent, spread};
use crate::audit::Audit;
use crate::database::Databases;
use crate::floor::Floor;
use crate::growth::Growth;
use crate::intake::Intake;
use crate::others::Peers;
use crate::stats::{Percentiles, Spread};
use crate::sweep::Sweep;

/// The daemon beside the floor.
pub(super) fn above(text: &mut String, floor: &Floor) -> std::fmt::Result {
    let versions = |versioned: bool| if versioned { "yes" } else { "no" };
    writeln!(
        text,
        "\n| objects | versions | slots | daemon, objects/s | floor, objects/s | of the floor | CPU, \
         ms/object |\n|---|---|--:|--:|--:|--:|--:|"
    )?;
    for row in &floor.rows {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.set,
            versions(row.versioned),
            row.slots,
            spread(row.daemon),
            spread(row.floor),
            percent(row.ratio),
            spread(row.cpu_ms),
        )?;
    }
    writeln!(
        text,
        "\n| versions | notifications/s | count | daemon, p50/p95/p99, ms | floor | p99, of the \
         floor's |\n|---|--:|--:|--:|--:|--:|"
    )?;
    for tail in &floor.tails {
        let times = |times: &Percentiles| [times.p50, times.p95, times.p99].map(number).join(" / ");
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} |",
            versions(tail.versioned),
            number(tail.per_second),
            tail.daemon.count,
            times(&tail.daemon),
            times(&tail.floor),
            tail.daemon.p99 / tail.floor.p99,
        )?;
    }
    Ok(())
}

/// The daemon beside another scanner.
pub(super) fn beside(text: &mut String, peers: &Peers) -> std::fmt::Result {
    writeln!(
        text,
        "\n| {} objects of 10 KiB, at once | scanner | objects/s | CPU, ms/object | memory, MiB |\n\
         |--:|---|--:|--:|--:|",
        peers.objects
    )?;
    for row in &peers.rows {
        for (name, figures) in [("daemon", &row.daemon), (peers.name.as_str(), &row.peer)] {
            writeln!(
                text,
                "| {} | {name} | {} | {} | {:.1} |",
                row.slots,
                spread(figures.per_second),
                spread(figures.cpu_ms),
                figures.mib
            )?;
        }
    }
    Ok(())
}

/// Many slots, and many daemons.
pub(super) fn grown(text: &mut String, growth: &Growth) -> std::fmt::Result {
    writeln!(
        text,
        "\n| {} objects of 10 KiB, slots | objects/s | CPU, ms/object | peak, MiB |\n|--:|--:|--:|--:|",
        growth.objects
    )?;
    for row in &growth.slots {
        let (rate, cpu) = (number(row.per_second), number(row.cpu_ms));
        writeln!(text, "| {} | {rate} | {cpu} | {:.1} |", row.slots, row.peak_mib)?;
    }
    let shares = &growth.replicas;
    writeln!(
        text,
        "\n{} daemons with {} slots each on one queue: {} objects/s together, {} to {} objects each, at most \
         {:.0} % off their mean.",
        shares.objects.len(),
        shares.slots,
        number(shares.per_second),
        shares.objects.first().copied().unwrap_or_default(),
        shares.objects.last().copied().unwrap_or_default(),
        shares.unfairness * 100.0
    )
}

/// Databases of two sizes.
pub(super) fn engines(text: &mut String, databases: &Databases) -> std::fmt::Result {
    writeln!(
        text,
        "\n| database | signatures | start, s | memory, MiB | new signatures after, s | memory meanwhile, at \
         most |\n|---|--:|--:|--:|--:|--:|"
    )?;
    for load in &databases.loads {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            load.database,
            load.signatures,
            number(load.start_seconds),
            number(load.resident_mib),
            number(load.reload_seconds),
            number(load.reload_peak_mib),
        )?;
    }
    writeln!(
        text,
        "\n| database | objects | engines | MaxThreads | slots | engines alone, objects/s | daemon, objects/s | \
         CPU of the engine, ms/object |\n|---|---|--:|--:|--:|--:|--:|--:|"
    )?;
    for row in &databases.rows {
        let or_none = |figure: Option<Spread>| figure.map_or_else(|| "–".to_owned(), spread);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.database,
            row.set,
            row.engines,
            row.threads,
            row.slots,
            spread(row.alone),
            or_none(row.daemon),
            or_none(row.engine_cpu_ms),
        )?;
    }
    Ok(())
}

pub(super) fn webhooks(text: &mut String, intake: &Intake) -> std::fmt::Result {
    let times = |times: &Percentiles| [times.p50, times.p95, times.p99].map(number).join(" / ");
    writeln!(
        text,
        "\n| senders | webhooks/s | bare publishes/s | of bare publishes | request to answer \
         p50/p95/p99, ms |\n|--:|--:|--:|--:|--:|"
    )?;
    for row in &intake.rows {
        let (rate, bare) = (spread(row.webhooks), spread(row.bare));
        let (ratio, times) = (percent(row.ratio), times(&row.times));
        writeln!(text, "| {} | {rate} | {bare} | {ratio} | {times} |", row.senders)?;
    }
    let (paced, times) = (number(intake.paced), times(&intake.times));
    writeln!(text, "\nAt a steady {paced} webhooks/s: {times} ms.")
}

pub(super) fn audited(text: &mut String, audit: &Audit) -> std::fmt::Result {
    writeln!(
        text,
        "\n| audit of {} objects, at once | objects/s | bare requests/s | of bare requests | CPU, \
         ms/object | peak, MiB |\n|--:|--:|--:|--:|--:|--:|",
        audit.objects
    )?;
    for row in &audit.rows {
        let (objects, bare, ratio) = (spread(row.objects), spread(row.bare), percent(row.ratio));
        let (cpu, peak) = (spread(row.cpu_ms), number(row.peak_mib));
        writeln!(text, "| {} | {objects} | {bare} | {ratio} | {cpu} | {peak} |", row.concurrency)?;
    }
    Ok(())
}

pub(super) fn swept(text: &mut String, sweep: &Sweep) -> std::fmt::Result {
    writeln!(
        text,
        "\n| 10 KiB beside a sweep of {} objects, slots | highest rate, objects/s | live objects/s | \
         notification to ack p50/p95/p99, ms, alone | beside the sweep | p95 beside, of alone | swept \
         objects/s | of what is left |\n|--:|--:|--:|--:|--:|--:|--:|--:|",
        sweep.objects
    )?;
    let times = |times: [f64; 3]| times.map(number).join(" / ");
    writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {} |",
        sweep.slots,
        spread(sweep.highest),
        spread(sweep.live),
        times(sweep.alone),
        times(sweep.beside),
        spread(sweep.slower),
        spread(sweep.swept),
        percent(sweep.share),
    )
}
