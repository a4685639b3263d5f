//! Estimates for larger deployments from measurements on one machine, calculated and simulated.
//!
//! The cost of an object for each service is processor time, taken from the drains. Between
//! measured sizes it is interpolated linearly. A simulation of the measured machine with the same
//! figures shows how far off the estimates are.

use fastrand::Rng;

use crate::results::{Case, Check, Cost, Plan, Results, Scale};
use crate::rig::Engine;
use crate::sets::{KIB, MIB, SETS, Shape, USUAL_SLOTS, mixed_size};
use crate::simulation::{self, Job, Step};
use crate::stats::{Spread, as_f64, u64_as_f64, whole};

/// The parts that work for an object, in the order of [`Cost::of`]; the bench itself comes after
/// them.
const PARTS: [&str; 4] = ["daemon", "clamd", "store", "broker"];
const BROKER: usize = 3;
/// Planned utilisation of processors; the rest is a reserve for bursts.
const FULL: f64 = 0.6;
/// Slots of one worker in a plan.
const SLOTS: usize = 16;
/// Objects of a simulation: enough for a 99th percentile.
const SIMULATED: usize = 20_000;
const SEED: u64 = 11;

/// The estimates; `None` if small and large objects were not both measured, or the broker was not.
pub(super) fn of(results: &Results) -> Option<Scale> {
    let costs = costs(&results.cases);
    let span = (costs.first()?.bytes, costs.last()?.bytes);
    if span.0 > u64_as_f64(10 * KIB) || span.1 < u64_as_f64(64 * MIB) {
        return None;
    }
    let cores = results.machine.cores;
    let measured = results.cases.iter().filter(|case| !case.reports);
    let checks = measured.filter_map(|case| check(case, &costs, cores)).collect();
    let messages = results.broker?.through;
    let plans = [10.0, 100.0, 1000.0].into_iter().flat_map(|rate| {
        [
            plan(format!("{rate}/s of 10 KiB"), rate, &costs, messages, |_| u64_as_f64(10 * KIB)),
            plan(format!("{rate}/s mixed"), rate, &costs, messages, mixed),
        ]
    });
    let hour = 1e12 / 3600.0;
    let average = mean(mixed);
    let terabytes = [
        plan("1 TB/h of 64 MiB".into(), hour / u64_as_f64(64 * MIB), &costs, messages, |_| {
            u64_as_f64(64 * MIB)
        }),
        plan("1 TB/h mixed".into(), hour / average, &costs, messages, mixed),
    ];
    let plans = plans.chain(terabytes).collect::<Option<Vec<Plan>>>()?;
    Some(Scale { costs, checks, plans })
}

/// A random size from the mixed set.
fn mixed(rng: &mut Rng) -> f64 {
    let percent = rng.usize(0..100);
    // An archive is about as long as its content.
    mixed_size(percent, rng).map_or(u64_as_f64(8 * KIB), u64_as_f64)
}

fn mean(size: impl Fn(&mut Rng) -> f64) -> f64 {
    let mut rng = Rng::with_seed(SEED);
    (0..SIMULATED).map(|_| size(&mut rng)).sum::<f64>() / as_f64(SIMULATED)
}

/// One for each measured size, smallest first.
fn costs(cases: &[Case]) -> Vec<Cost> {
    let mut costs: Vec<Cost> = Vec::new();
    for set in SETS.iter().filter(|set| set.shape != Shape::Mixed) {
        let at = |slots: usize| {
            cases.iter().find(|case| case.set == set.name && case.slots == slots && !case.reports)
        };
        let slots: Vec<usize> = set.slots.iter().copied().filter(|slots| *slots > 1).collect();
        let usual = if slots.contains(&USUAL_SLOTS) { Some(&USUAL_SLOTS) } else { slots.last() };
        if let (Some(alone), Some(many)) = (at(1), usual.and_then(|slots| at(*slots)))
            && let Some(cost) = cost(alone, many)
        {
            costs.push(cost);
        }
    }
    costs
}

fn cost(alone: &Case, many: &Case) -> Option<Cost> {
    let used = |case: &Case, name: &str| {
        let drains = case.runs.iter().filter_map(|run| run.drains.get(&Engine::Clamd));
        let each = drains.map(|drain| {
            drain.cpu.get(name).copied().unwrap_or_default() / as_f64(drain.pace.objects)
        });
        Spread::of(each).map(|spread| spread.median)
    };
    let all = |case: &Case| {
        PARTS.iter().chain(&["harness"]).map(|name| used(case, name)).sum::<Option<f64>>()
    };
    let each = 1.0 / alone.row_of(Engine::Clamd)?.objects_per_second.median;
    let mut of = [0.0; 4];
    for (cost, name) in of.iter_mut().zip(PARTS) {
        *cost = used(many, name)?;
    }
    Some(Cost {
        set: many.set.clone(),
        bytes: u64_as_f64(many.bytes) / as_f64(many.objects),
        of,
        harness: used(many, "harness")?,
        pause: (each - all(alone)?).max(0.0),
    })
}

/// The cost of an object of `bytes`: linear between the measured sizes and beyond the largest,
/// constant below the smallest.
fn between(costs: &[Cost], bytes: f64, figure: impl Fn(&Cost) -> f64) -> f64 {
    let next = costs.iter().position(|cost| cost.bytes >= bytes).unwrap_or(costs.len() - 1);
    let Some(last) = next.checked_sub(1) else { return figure(&costs[0]) };
    let (from, to) = (&costs[last], &costs[next]);
    let part = (bytes - from.bytes) / (to.bytes - from.bytes);
    (figure(from) + part * (figure(to) - figure(from))).max(0.0)
}

/// Simulates the measured case on the machine of the measurement.
fn check(case: &Case, costs: &[Cost], cores: usize) -> Option<Check> {
    let row = case.row_of(Engine::Clamd)?;
    let size = u64_as_f64(case.bytes) / as_f64(case.objects);
    let mixture = SETS.iter().any(|set| set.name == case.set && set.shape == Shape::Mixed);
    let mut rng = Rng::with_seed(SEED);
    let jobs: Vec<Job> = (0..case.objects.max(400))
        .map(|_| {
            let size = if mixture { mixed(&mut rng) } else { size };
            let works = (0..PARTS.len()).map(|part| between(costs, size, |cost| cost.of[part]));
            let harness = between(costs, size, |cost| cost.harness);
            let mut steps: Vec<Step> =
                works.chain([harness]).map(|seconds| Step::Work { station: 0, seconds }).collect();
            steps.push(Step::Pause(between(costs, size, |cost| cost.pause)));
            Job { comes: 0.0, steps }
        })
        .collect();
    let outcome = simulation::run(&jobs, &[cores], case.slots)?;
    Some(Check {
        set: case.set.clone(),
        slots: case.slots,
        measured: row.objects_per_second.median,
        simulated: outcome.rate,
    })
}

/// The processors, workers and queues that a load needs; `messages` is the throughput of one queue
/// per second.
fn plan(
    load: String,
    rate: f64,
    costs: &[Cost],
    messages: f64,
    size: impl Fn(&mut Rng) -> f64 + Copy,
) -> Option<Plan> {
    // The mean time of an object at each part.
    let average = |part: usize| {
        if part == BROKER {
            return 1.0 / messages;
        }
        let mut rng = Rng::with_seed(SEED);
        let all = (0..SIMULATED).map(|_| between(costs, size(&mut rng), |cost| cost.of[part]));
        all.sum::<f64>() / as_f64(SIMULATED)
    };
    let takes: Vec<f64> = (0..PARTS.len()).map(average).collect();
    let servers: Vec<usize> = takes.iter().map(|seconds| whole(rate * seconds / FULL)).collect();

    let mut rng = Rng::with_seed(SEED);
    let mut comes = 0.0;
    let jobs: Vec<Job> = (0..SIMULATED)
        .map(|_| {
            // Independent arrivals.
            comes -= (1.0 - rng.f64()).ln() / rate;
            let bytes = size(&mut rng);
            Job { comes, steps: steps(costs, bytes, messages) }
        })
        .collect();
    // Slots cost little. There are enough that the processors are the limit.
    let alone = between(costs, mean(size), |cost| cost.pause) + takes.iter().sum::<f64>();
    let workers = servers[0].max(whole(3.0 * rate * alone / as_f64(SLOTS)));
    let outcome = simulation::run(&jobs, &servers, workers * SLOTS)?;
    let limits = servers.iter().zip(&takes).map(|(count, seconds)| as_f64(*count) / seconds);
    let (bends, bends_at) = PARTS.into_iter().zip(limits).min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(Plan {
        load,
        rate,
        megabytes_per_second: rate * mean(size) / 1e6,
        cores: [servers[0], servers[1], servers[2]],
        queues: servers[BROKER],
        workers,
        busy: outcome.busy,
        times: outcome.times,
        mean: outcome.mean,
        bends_at,
        bends,
    })
}

/// Delivery, fetch, scan, effects, acknowledgement.
fn steps(costs: &[Cost], bytes: f64, messages: f64) -> Vec<Step> {
    let seconds = |part: usize| between(costs, bytes, |cost| cost.of[part]);
    let work = |station, seconds| Step::Work { station, seconds };
    let half = 0.5 / messages;
    vec![
        work(BROKER, half),
        work(0, seconds(0) / 2.0),
        work(2, seconds(2) / 2.0),
        work(1, seconds(1)),
        work(0, seconds(0) / 2.0),
        work(2, seconds(2) / 2.0),
        Step::Pause(between(costs, bytes, |cost| cost.pause)),
        work(BROKER, half),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(bytes: f64, of: f64) -> Cost {
        Cost { set: String::new(), bytes, of: [of; 4], harness: 0.0, pause: 0.0 }
    }

    #[test]
    fn between_two_sizes_costs_grow_in_proportion() {
        let costs = [cost(10.0, 1.0), cost(20.0, 3.0)];
        let at = |bytes| between(&costs, bytes, |cost| cost.of[0]);
        for (bytes, wanted) in [(1.0, 1.0), (10.0, 1.0), (15.0, 2.0), (20.0, 3.0), (40.0, 7.0)] {
            assert!((at(bytes) - wanted).abs() < 1e-9, "{bytes} costs {}", at(bytes));
        }
    }

    #[test]
    fn a_plan_carries_its_load_and_says_what_gives_way_first() {
        let costs = [cost(1024.0, 0.001), cost(1e9, 0.001)];
        let plan = plan("x".into(), 1000.0, &costs, 1500.0, |_| 2048.0).unwrap();
        assert_eq!(plan.cores, [2, 2, 2]);
        assert_eq!(plan.queues, 2);
        assert!(plan.busy.iter().all(|busy| *busy < 0.65), "{plan:?}");
        assert_eq!(plan.bends, "daemon");
        assert!((plan.bends_at - 2000.0).abs() < 1e-6);
    }
}
