//! The tables.

mod extras;

use std::fmt::Write;

use peers::error::{Context, Result};

use self::extras::{above, audited, beside, engines, grown, swept, webhooks};
use crate::results::{Case, Results, Row, Scale};
use crate::stats::Spread;

/// All tables for which there are results.
///
/// # Errors
/// Never: writing to a string does not fail.
pub(super) fn markdown(results: &Results) -> Result<String> {
    let mut text = String::new();
    write_all(&mut text, results).context("tables")?;
    Ok(text)
}

fn write_all(text: &mut String, results: &Results) -> std::fmt::Result {
    let machine = &results.machine;
    let signatures =
        if machine.test_signatures_only { ", the EICAR test signature alone" } else { "" };
    writeln!(
        text,
        "{}, {} ({} cores, {} MiB, Linux {}); RabbitMQ {}, {}{signatures}, {}; the daemon's program \
         has {} bytes. Runs of each case: {}; medians (least–most).\n",
        machine.date.get(..10).unwrap_or_default(),
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.rabbitmq,
        machine.clamd,
        machine.juicefs,
        machine.binary_bytes,
        results.runs,
    )?;
    if !results.targets.is_empty() {
        writeln!(text, "| target | wanted | measured | |\n|---|---|---|---|")?;
        for target in &results.targets {
            let met = if target.met { "met" } else { "**missed**" };
            let (what, wanted, measured) = (&target.what, &target.wanted, &target.measured);
            writeln!(text, "| {what} | {wanted} | {measured} | {met} |")?;
        }
    }
    if !results.cases.is_empty() {
        drains(text, results)?;
        limits(text, results)?;
    }
    if !results.paced.is_empty() {
        paced(text, results)?;
    }
    if let Some(intake) = &results.intake {
        webhooks(text, intake)?;
    }
    if let Some(audit) = &results.audit {
        audited(text, audit)?;
    }
    if let Some(floor) = &results.floor {
        above(text, floor)?;
    }
    if let Some(peers) = &results.peers {
        beside(text, peers)?;
    }
    if let Some(growth) = &results.growth {
        grown(text, growth)?;
    }
    if let Some(databases) = &results.databases {
        engines(text, databases)?;
    }
    if let Some(sweep) = &results.sweep {
        swept(text, sweep)?;
    }
    others(text, results)?;
    match &results.scale {
        Some(scale) => scaled(text, scale),
        None => Ok(()),
    }
}

fn drains(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "\n| objects | slots | engine | objects/s | MB/s | of clamd alone | of both limits | CPU, \
         ms/object | CPU, s/GiB | share of CPU | peak, MiB | delivery to ack p50/p95/p99, ms |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for case in &results.cases {
        for row in &case.rows {
            drain(text, case, row)?;
        }
    }
    Ok(())
}

fn drain(text: &mut String, case: &Case, row: &Row) -> std::fmt::Result {
    let times = row
        .deliver_to_ack
        .map_or("–".to_owned(), |[p50, p95, p99]| [p50, p95, p99].map(number).join(" / "));
    let reported = if case.reports { ", reported" } else { "" };
    writeln!(
        text,
        "| {}{reported} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {times} |",
        case.set,
        case.slots,
        row.engine.name(),
        spread(row.objects_per_second),
        spread(row.megabytes_per_second),
        percent(row.to_clamd),
        percent(row.to_pair),
        spread(row.cpu_ms_per_object),
        spread(row.cpu_s_per_gib),
        percent(row.share),
        spread(row.peak_mib),
    )
}

fn limits(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "\n| objects | streams | clamd alone, objects/s | MB/s | store alone, objects/s | both at \
         once, objects/s |\n|---|--:|--:|--:|--:|--:|"
    )?;
    for case in &results.cases {
        let Some(limits) = &case.limits else { continue };
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            case.set,
            case.slots,
            spread(limits.clamd),
            spread(limits.clamd_megabytes),
            spread(limits.store),
            spread(limits.pair),
        )?;
    }
    Ok(())
}

fn paced(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "\n| objects | slots | engine | notifications/s | count | notification to ack p50/p95/p99, \
         ms | delivery to ack p50/p95/p99, ms |\n|---|--:|---|--:|--:|--:|--:|"
    )?;
    for row in &results.paced {
        let (whole, part) = (row.paced.publish_to_ack, row.paced.deliver_to_ack);
        let times = |p50, p95, p99| [p50, p95, p99].map(number).join(" / ");
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.set,
            row.slots,
            row.engine.name(),
            number(row.paced.per_second),
            whole.count,
            times(whole.p50, whole.p95, whole.p99),
            times(part.p50, part.p95, part.p99),
        )?;
    }
    Ok(())
}

fn others(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text)?;
    if let Some(start) = &results.start {
        let (count, spread) = (start.milliseconds.len(), spread(start.spread));
        writeln!(text, "- Ready after {spread} ms ({count} starts).")?;
    }
    if let Some(operations) = &results.operations {
        writeln!(
            text,
            "- Requests to the store for an object: {}. {} samples reached the engine for {} \
             objects, self-tests included.",
            operations.last.join(", "),
            operations.scans,
            operations.objects,
        )?;
    }
    if let Some(broker) = &results.broker {
        writeln!(
            text,
            "- One quorum queue, {} messages: {}/s published and confirmed, {}/s consumed and \
             acknowledged, {}/s when both happen at once.",
            broker.messages,
            number(broker.published),
            number(broker.consumed),
            number(broker.through),
        )?;
    }
    if let Some(memory) = &results.memory {
        writeln!(
            text,
            "- {} objects in {} slots: {} MiB resident at most, {} MB/s.",
            memory.set,
            memory.slots,
            number(memory.peak_mib()),
            number(memory.drain.pace.megabytes()),
        )?;
    }
    if let Some(backlog) = &results.backlog {
        writeln!(
            text,
            "- {} notifications in {} s: {}/s over the first tenth, {}/s over the last; {} MiB \
             resident at most.",
            backlog.notifications,
            number(backlog.seconds),
            number(backlog.first_tenth),
            number(backlog.last_tenth),
            number(crate::stats::u64_as_f64(backlog.peak_kib) / 1024.0),
        )?;
    }
    Ok(())
}

fn scaled(text: &mut String, scale: &Scale) -> std::fmt::Result {
    writeln!(
        text,
        "\n| objects | daemon, CPU ms/object | clamd | store | broker |\n|---|--:|--:|--:|--:|"
    )?;
    for cost in &scale.costs {
        let of = cost.of.map(|seconds| number(seconds * 1000.0)).join(" | ");
        writeln!(text, "| {} | {of} |", cost.set)?;
    }
    writeln!(
        text,
        "\n| objects | slots | measured, objects/s | simulated | difference |\n\
         |---|--:|--:|--:|--:|"
    )?;
    for check in &scale.checks {
        let off = (check.simulated / check.measured - 1.0) * 100.0;
        let (measured, simulated) = (number(check.measured), number(check.simulated));
        let (set, slots) = (&check.set, check.slots);
        writeln!(text, "| {set} | {slots} | {measured} | {simulated} | {off:+.0} % |")?;
    }
    writeln!(
        text,
        "\n| load | objects/s | MB/s | queues | workers | their CPUs | CPUs of clamd | CPUs of the \
         store | busy: workers/clamd/store/queues, % | notification to ack p50/p95/p99, ms | bends \
         at, objects/s |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for plan in &scale.plans {
        let busy: Vec<String> =
            plan.busy.iter().map(|part| format!("{:.0}", part * 100.0)).collect();
        let [daemon, clamd, store] = plan.cores;
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {daemon} | {clamd} | {store} | {} | {} | {} ({}) |",
            plan.load,
            number(plan.rate),
            number(plan.megabytes_per_second),
            plan.queues,
            plan.workers,
            busy.join("/"),
            [plan.times.p50, plan.times.p95, plan.times.p99].map(number).join(" / "),
            number(plan.bends_at),
            plan.bends,
        )?;
    }
    Ok(())
}

/// A median, and for several runs the least and the most.
pub(crate) fn spread(spread: Spread) -> String {
    ends(spread, "", number)
}

fn percent(spread: Spread) -> String {
    ends(spread, " %", |part| format!("{:.0}", part * 100.0))
}

fn ends(Spread { median, least, most }: Spread, unit: &str, text: fn(f64) -> String) -> String {
    let (median, least, most) = (text(median), text(least), text(most));
    if least == most {
        format!("{median}{unit}")
    } else {
        format!("{median}{unit} ({least}–{most})")
    }
}

/// Three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_run_has_no_spread() {
        let one = Spread { median: 12.34, least: 12.34, most: 12.34 };
        assert_eq!(spread(one), "12.3");
        assert_eq!(percent(Spread { median: 0.5, least: 0.4, most: 0.6 }), "50 % (40–60)");
    }
}
