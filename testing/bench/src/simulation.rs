//! A simulation of queues: objects visit stations one after the other, and each station has a
//! number of servers.
//!
//! A server works at most [`SLICE`] on one object before the next, as the scheduler of an operating
//! system does, so that a long request does not delay a short one for long.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::stats::{Percentiles, as_f64};

/// Longest time that a server works on one object before the next, in seconds.
const SLICE: f64 = 0.005;

/// One step of an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Seconds of work of one server of a station.
    Work { station: usize, seconds: f64 },
    /// Seconds in which no server works for it.
    Pause(f64),
}

/// One object: when it arrives, in seconds, and its steps.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) comes: f64,
    pub(super) steps: Vec<Step>,
}

/// The result.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Objects per second, from the first arrival to the last end.
    pub(super) rate: f64,
    /// From arrival to end, in milliseconds.
    pub(super) times: Percentiles,
    /// The mean of these times.
    pub(super) mean: f64,
    /// Utilisation of the servers of each station, from 0 to 1.
    pub(super) busy: Vec<f64>,
}

struct Station {
    free: usize,
    waiting: VecDeque<usize>,
    worked: f64,
}

/// A time in nanoseconds, so that times have an order, and the object that the event is about.
type Event = Reverse<(u64, usize)>;

struct World<'a> {
    jobs: &'a [Job],
    stations: Vec<Station>,
    /// The current step of each object, and the rest of it in seconds.
    at: Vec<(usize, f64)>,
    /// The length of the slice in which each object is served, if it is.
    served: Vec<f64>,
    events: BinaryHeap<Event>,
    now: f64,
}

/// Runs `jobs`, in the order of their arrival, through stations with so many `servers`. At most
/// `slots` objects are in progress at a time; the others wait in the order of their arrival.
///
/// `None` without jobs.
pub(super) fn run(jobs: &[Job], servers: &[usize], slots: usize) -> Option<Outcome> {
    let station = |free: &usize| Station { free: *free, waiting: VecDeque::new(), worked: 0.0 };
    let mut world = World {
        jobs,
        stations: servers.iter().map(station).collect(),
        at: vec![(0, 0.0); jobs.len()],
        served: vec![0.0; jobs.len()],
        events: BinaryHeap::new(),
        now: 0.0,
    };
    let (mut queue, mut free) = (VecDeque::new(), slots.max(1));
    let mut times = vec![Duration::ZERO; jobs.len()];
    let mut come = 0;
    let mut ended = 0;
    while ended < jobs.len() {
        // The next event: an object arrives, or a slice or pause ends.
        let due = world.events.peek().map(|Reverse((moment, _))| *moment);
        let arrives = jobs.get(come).map(|job| nanoseconds(job.comes));
        let next = match (arrives, due) {
            (Some(arrival), due) if due.is_none_or(|due| arrival <= due) => {
                world.now = jobs[come].comes.max(world.now);
                queue.push_back(come);
                come += 1;
                None
            }
            _ => world.events.pop(),
        };
        if let Some(Reverse((moment, job))) = next {
            world.now = Duration::from_nanos(moment).as_secs_f64();
            if world.sliced(job) {
                let took = (world.now - jobs[job].comes).max(0.0);
                times[job] = Duration::from_secs_f64(took);
                ended += 1;
                free += 1;
            }
        }
        while free > 0
            && let Some(job) = queue.pop_front()
        {
            if world.begin(job, 0) {
                ended += 1;
            } else {
                free -= 1;
            }
        }
    }
    let lasted = (world.now - jobs.first()?.comes).max(f64::MIN_POSITIVE);
    let busy = world.stations.iter().zip(servers);
    let total: Duration = times.iter().sum();
    Some(Outcome {
        rate: as_f64(jobs.len()) / lasted,
        mean: total.as_secs_f64() * 1000.0 / as_f64(jobs.len()),
        times: Percentiles::of(times)?,
        busy: busy.map(|(station, count)| station.worked / (lasted * as_f64(*count))).collect(),
    })
}

fn nanoseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_nanos()).unwrap_or(u64::MAX)
}

impl World<'_> {
    /// Starts a step of an object; returns true when there is none left.
    fn begin(&mut self, job: usize, step: usize) -> bool {
        match self.jobs[job].steps.get(step) {
            None => return true,
            Some(Step::Pause(seconds)) => {
                self.at[job] = (step, 0.0);
                self.events.push(Reverse((nanoseconds(self.now + seconds), job)));
            }
            Some(Step::Work { station, seconds }) => {
                self.at[job] = (step, *seconds);
                self.stations[*station].waiting.push_back(job);
                self.serve(*station);
            }
        }
        false
    }

    /// Gives work to the free servers of a station.
    fn serve(&mut self, station: usize) {
        let here = &mut self.stations[station];
        while here.free > 0
            && let Some(job) = here.waiting.pop_front()
        {
            let slice = self.at[job].1.min(SLICE);
            here.free -= 1;
            here.worked += slice;
            self.served[job] = slice;
            self.events.push(Reverse((nanoseconds(self.now + slice), job)));
        }
    }

    /// Ends a slice or a pause; returns true when the object is finished.
    fn sliced(&mut self, job: usize) -> bool {
        let (step, left) = self.at[job];
        if let Some(Step::Work { station, .. }) = self.jobs[job].steps.get(step).copied() {
            let left = left - self.served[job];
            self.stations[station].free += 1;
            if left > 1e-9 {
                self.at[job].1 = left;
                self.stations[station].waiting.push_back(job);
                self.serve(station);
                return false;
            }
            self.serve(station);
        }
        self.begin(job, step + 1)
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn jobs(count: usize, gap: impl Fn() -> f64, work: impl Fn() -> f64) -> Vec<Job> {
        let mut comes = 0.0;
        (0..count)
            .map(|_| {
                comes += gap();
                Job { comes, steps: vec![Step::Work { station: 0, seconds: work() }] }
            })
            .collect()
    }

    fn near(found: f64, wanted: f64, by: f64) -> bool {
        (found / wanted - 1.0).abs() < by
    }

    #[test]
    fn servers_that_are_never_idle_set_the_rate() {
        let jobs = jobs(1000, || 0.0, || 0.020);
        let outcome = run(&jobs, &[4], 100).unwrap();
        assert!(near(outcome.rate, 200.0, 0.01), "{outcome:?}");
        assert!(near(outcome.busy[0], 1.0, 0.01), "{outcome:?}");
        // One slot uses only one server.
        let outcome = run(&jobs, &[4], 1).unwrap();
        assert!(near(outcome.rate, 50.0, 0.01) && near(outcome.busy[0], 0.25, 0.01), "{outcome:?}");
    }

    #[test]
    fn arrivals_at_random_wait_as_theory_says() {
        // M/M/1: service time / (1 - utilisation) on average, with and without slices.
        let rng = std::cell::RefCell::new(Rng::with_seed(7));
        let exponential = |mean: f64| -mean * (1.0 - rng.borrow_mut().f64()).ln();
        let jobs = jobs(60_000, || exponential(0.010), || exponential(0.007));
        let outcome = run(&jobs, &[1], usize::MAX).unwrap();
        assert!(near(outcome.rate, 100.0, 0.03) && near(outcome.busy[0], 0.7, 0.03), "{outcome:?}");
        assert!(near(outcome.mean, 7.0 / 0.3, 0.1), "{outcome:?}");
    }

    #[test]
    fn pauses_use_no_server() {
        let steps = vec![Step::Pause(0.010), Step::Work { station: 0, seconds: 0.010 }];
        let jobs: Vec<Job> = (0..500).map(|_| Job { comes: 0.0, steps: steps.clone() }).collect();
        let one = run(&jobs, &[1], 1).unwrap();
        assert!(near(one.rate, 50.0, 0.02) && near(one.busy[0], 0.5, 0.02), "{one:?}");
        let two = run(&jobs, &[1], 2).unwrap();
        assert!(near(two.rate, 100.0, 0.02), "{two:?}");
    }
}
