//! A simulation of queues: objects that come or wait, and stations with a number of servers each
//! that they visit one after the other.
//!
//! A station serves in turn and at most [`SLICE`] at a time, as an operating system's scheduler
//! does, so that a short request is not held up for long by a long one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::stats::{Percentiles, as_f64};

/// Seconds that a server works for one object before it turns to the next one.
const SLICE: f64 = 0.005;

/// One thing that an object waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Seconds of work of one server of a station.
    Work { station: usize, seconds: f64 },
    /// Seconds that nobody works.
    Pause(f64),
}

/// One object: when it comes, in seconds, and what it needs.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) comes: f64,
    pub(super) steps: Vec<Step>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// Objects a second, from the first arrival to the last end.
    pub(super) rate: f64,
    /// From arrival to end, in milliseconds.
    pub(super) times: Percentiles,
    /// Their mean.
    pub(super) mean: f64,
    /// How much of the time the servers of each station worked, from 0 to 1.
    pub(super) busy: Vec<f64>,
}

struct Station {
    free: usize,
    waiting: VecDeque<usize>,
    worked: f64,
}

/// A moment in nanoseconds, so that moments have an order, and the object that it concerns.
type Event = Reverse<(u64, usize)>;

struct World<'a> {
    jobs: &'a [Job],
    stations: Vec<Station>,
    /// The step that each object is at, and what is left of it.
    at: Vec<(usize, f64)>,
    /// The slice that each object is served for, if it is.
    served: Vec<f64>,
    events: BinaryHeap<Event>,
    now: f64,
}

/// Runs `jobs` (in order of their arrival) through stations with so many `servers`; no more than
/// `slots` are under way at a time, the others wait in the order they came.
///
/// `None` without any job.
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
        // What happens next: an object comes, or a server is done with a slice.
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
    /// Takes an object to a step; true when there is none left.
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

    /// Gives the free servers of a station something to do.
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

    /// A slice or a pause is over; true when the object is through.
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
        // One slot keeps but one server busy.
        let outcome = run(&jobs, &[4], 1).unwrap();
        assert!(near(outcome.rate, 50.0, 0.01) && near(outcome.busy[0], 0.25, 0.01), "{outcome:?}");
    }

    #[test]
    fn arrivals_at_random_wait_as_theory_says() {
        // M/M/1: service time / (1 - utilisation) on average, in turn or in slices.
        let rng = std::cell::RefCell::new(Rng::with_seed(7));
        let exponential = |mean: f64| -mean * (1.0 - rng.borrow_mut().f64()).ln();
        let jobs = jobs(60_000, || exponential(0.010), || exponential(0.007));
        let outcome = run(&jobs, &[1], usize::MAX).unwrap();
        assert!(near(outcome.rate, 100.0, 0.03) && near(outcome.busy[0], 0.7, 0.03), "{outcome:?}");
        assert!(near(outcome.mean, 7.0 / 0.3, 0.1), "{outcome:?}");
    }

    #[test]
    fn pauses_keep_nobody_busy() {
        let steps = vec![Step::Pause(0.010), Step::Work { station: 0, seconds: 0.010 }];
        let jobs: Vec<Job> = (0..500).map(|_| Job { comes: 0.0, steps: steps.clone() }).collect();
        let one = run(&jobs, &[1], 1).unwrap();
        assert!(near(one.rate, 50.0, 0.02) && near(one.busy[0], 0.5, 0.02), "{one:?}");
        let two = run(&jobs, &[1], 2).unwrap();
        assert!(near(two.rate, 100.0, 0.02), "{two:?}");
    }
}
