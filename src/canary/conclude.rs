//! What a round concludes about one bucket. Pure.

use std::fmt;
use std::time::Duration;

use super::fact::{End, Outcome, Sample};
use super::ledger::Progress;
use crate::policy::Action;
use crate::verdict::Status;

/// A canary that was taken from the queue and did not end within this time is stuck. A delivery
/// takes 24 minutes at most.
const STUCK_AFTER: Duration = Duration::from_mins(30);
/// A marker that did not come for so long is sent once more: its queue may have been deleted.
const MARKER_REPEAT: Duration = Duration::from_mins(5);
/// Longest grace after the marker came. Another replica may have taken the canary's notification and
/// then have stopped; the broker notices that after two heartbeats of 15 s.
const MAX_GRACE: Duration = Duration::from_secs(45);

/// How long a round waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For canaries to come back.
    deadline: Duration,
    /// After the marker came.
    grace: Duration,
}

/// The time of a round. It stands still while a dependency is known to be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    /// Since the canaries were written.
    pub(super) running: Duration,
    pub(super) marker: Marker,
}

/// The marker of a round: behind it in the queue is nothing that was announced in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Unsent,
    /// Sent when the clock showed this.
    Sent(Duration),
    /// It came when the clock showed this.
    Came(Duration),
}

/// One canary of a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe<'a> {
    pub(super) sample: Sample,
    /// What has to be done to it.
    pub(super) action: Action,
    pub(super) progress: &'a Progress,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    SendMarker,
    End(Finding),
}

/// The end of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Both canaries came back, with the right verdict and effect.
    CameBack,
    /// One came back with another verdict or effect.
    Wrong { sample: Sample, status: Status, action: Action },
    /// No notification came, and others that were queued later did.
    NotAnnounced(Vec<Sample>),
    /// Nothing was said of it in the journal, but the object was acted on.
    Unsaid(Sample),
    /// Its notification came, and the work on it fails.
    Failing { sample: Sample, reason: String },
    /// Its notification came, and the work on it does not end.
    Stuck(Sample),
    /// The object was not there any more, or other bytes were.
    Vanished(Sample),
}

impl Limits {
    /// For settings in which `deadline` is shorter than `every`. Both together leave room for an alarm
    /// before the next round.
    pub(super) fn new(every: Duration, deadline: Duration) -> Self {
        Self { deadline, grace: MAX_GRACE.min(every.saturating_sub(deadline) / 2) }
    }
}

impl Finding {
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::CameBack => Outcome::Up,
            Self::Wrong { .. } | Self::NotAnnounced(_) | Self::Failing { .. } | Self::Stuck(_) => {
                Outcome::Down
            }
            // Somebody else may remove objects, or a replica was killed between effect and entry.
            Self::Vanished(_) | Self::Unsaid(_) => Outcome::Unproved,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CameBack => f.write_str("uploads are announced, scanned and acted upon"),
            Self::Wrong { sample, status, action } => {
                write!(f, "the {sample} canary got status {status} and action {action}")
            }
            Self::NotAnnounced(samples) => {
                let names: Vec<String> = samples.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "no notification of the {} canary came, and the queue was worked on: check \
                     the bucket's event settings, and the way from the store to the queue",
                    names.join(" and the ")
                )
            }
            Self::Unsaid(sample) => write!(
                f,
                "the {sample} canary was acted on by a replica that did not say so in the journal: do all \
                 have the same CANARY settings?"
            ),
            Self::Failing { sample, reason } => {
                write!(f, "the {sample} canary was announced, and the work on it fails: {reason}")
            }
            Self::Stuck(sample) => {
                write!(f, "the {sample} canary was announced, and the work on it does not end")
            }
            Self::Vanished(sample) => {
                write!(
                    f,
                    "the {sample} canary was gone, or overwritten, before it could be scanned"
                )
            }
        }
    }
}

/// Concludes from how far the canaries of a round have come.
pub(super) fn conclude(probes: &[Probe<'_>], clock: Clock, limits: Limits) -> Step {
    if let Some(wrong) = probes.iter().find_map(wrong) {
        return Step::End(wrong);
    }
    let mut open = probes.iter().filter(|probe| !is_applied(probe)).peekable();
    if open.peek().is_none() {
        return Step::End(Finding::CameBack);
    }
    if clock.running < limits.deadline {
        return Step::Wait;
    }
    // FIFO: what was announced in time is in front of the marker.
    let came = match clock.marker {
        Marker::Unsent => return Step::SendMarker,
        Marker::Sent(at) if clock.running.saturating_sub(at) >= MARKER_REPEAT => {
            return Step::SendMarker;
        }
        Marker::Sent(_) => return Step::Wait,
        Marker::Came(at) => at,
    };
    if clock.running.saturating_sub(came) < limits.grace {
        return Step::Wait;
    }
    let is_unseen = |probe: &&Probe<'_>| *probe.progress == Progress::Unseen;
    let unseen: Vec<Sample> = probes.iter().filter(is_unseen).map(|probe| probe.sample).collect();
    let findings = open.filter_map(|probe| overdue(probe, &unseen, clock.running));
    // An alarm before what says nothing.
    let worst = findings.min_by_key(|finding| finding.outcome() != Outcome::Down);
    worst.map_or(Step::Wait, Step::End)
}

/// The clean canary as `clean`, EICAR as `infected`, each with the action of the settings.
fn wrong(probe: &Probe<'_>) -> Option<Finding> {
    let Progress::Ended(End::Applied { status, action, .. }) = *probe.progress else { return None };
    let expected = match probe.sample {
        Sample::Clean => Status::Clean,
        Sample::Eicar => Status::Infected,
    };
    let right = (status, action) == (expected, probe.action);
    (!right).then_some(Finding::Wrong { sample: probe.sample, status, action })
}

fn is_applied(probe: &Probe<'_>) -> bool {
    matches!(probe.progress, Progress::Ended(End::Applied { .. }))
}

/// What it means that a canary is not done by now; `None` while it may still be.
fn overdue(probe: &Probe<'_>, unseen: &[Sample], running: Duration) -> Option<Finding> {
    let sample = probe.sample;
    match probe.progress {
        Progress::Unseen => Some(Finding::NotAnnounced(unseen.to_vec())),
        // A slow engine, or a backlog of large objects.
        Progress::Arrived => (running >= STUCK_AFTER).then_some(Finding::Stuck(sample)),
        Progress::Ended(End::Failed { reason }) => {
            Some(Finding::Failing { sample, reason: reason.clone() })
        }
        Progress::Ended(End::Gone) => Some(Finding::Vanished(sample)),
        Progress::Ended(End::Applied { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { deadline: Duration::from_mins(1), grace: Duration::from_secs(45) };

    fn clock(running: u64, marker: Marker) -> Clock {
        Clock { running: Duration::from_secs(running), marker }
    }

    fn sent(at: u64) -> Marker {
        Marker::Sent(Duration::from_secs(at))
    }

    fn came(at: u64) -> Marker {
        Marker::Came(Duration::from_secs(at))
    }

    fn ended(status: Status, action: Action) -> Progress {
        Progress::Ended(End::Applied { status, action, signature: None })
    }

    fn step(clean: &Progress, eicar: &Progress, clock: Clock) -> Step {
        let probe = |sample, action, progress| Probe { sample, action, progress };
        let probes =
            [probe(Sample::Clean, Action::Tag, clean), probe(Sample::Eicar, Action::Delete, eicar)];
        conclude(&probes, clock, LIMITS)
    }

    #[test]
    fn both_have_to_come_back_with_the_right_verdict_and_effect() {
        let (good, bad) =
            (ended(Status::Clean, Action::Tag), ended(Status::Infected, Action::Delete));
        let any = clock(0, Marker::Unsent);
        assert_eq!(step(&good, &bad, any), Step::End(Finding::CameBack));
        // Late is not lost.
        assert_eq!(step(&good, &bad, clock(9999, sent(60))), Step::End(Finding::CameBack));
        assert_eq!(step(&good, &Progress::Unseen, any), Step::Wait);
        for (clean, eicar, sample, status, action) in [
            // A blind engine; one that finds everything; an effect that was not done.
            (&good, ended(Status::Clean, Action::Tag), Sample::Eicar, Status::Clean, Action::Tag),
            (&bad, bad.clone(), Sample::Clean, Status::Infected, Action::Delete),
            (
                &good,
                ended(Status::Infected, Action::No),
                Sample::Eicar,
                Status::Infected,
                Action::No,
            ),
            (&ended(Status::No, Action::Tag), bad.clone(), Sample::Clean, Status::No, Action::Tag),
        ] {
            let wrong = Finding::Wrong { sample, status, action };
            assert_eq!(wrong.outcome(), Outcome::Down);
            assert_eq!(step(clean, &eicar, any), Step::End(wrong));
        }
    }

    #[test]
    fn the_whole_table_of_a_canary_that_does_not_come_back() {
        use Progress::{Arrived, Unseen};
        let failed = Progress::Ended(End::Failed { reason: "tag_denied".to_owned() });
        let gone = Progress::Ended(End::Gone);
        let good = ended(Status::Clean, Action::Tag);
        let sample = Sample::Eicar;
        let failing = Finding::Failing { sample, reason: "tag_denied".to_owned() };
        let end = |finding: &Finding| Step::End(finding.clone());
        let not_announced = Finding::NotAnnounced(vec![sample]);
        let vanished = Finding::Vanished(sample);
        for (time, unseen, arrived, failed_step, gone_step) in [
            // Before the deadline.
            (clock(59, Marker::Unsent), Step::Wait, Step::Wait, Step::Wait, Step::Wait),
            // A queue with a backlog brings neither the canary nor the marker: no alarm.
            (clock(61, sent(60)), Step::Wait, Step::Wait, Step::Wait, Step::Wait),
            (clock(359, sent(60)), Step::Wait, Step::Wait, Step::Wait, Step::Wait),
            // The grace for what is in work.
            (clock(114, came(70)), Step::Wait, Step::Wait, Step::Wait, Step::Wait),
            (clock(115, came(70)), end(&not_announced), Step::Wait, end(&failing), end(&vanished)),
        ] {
            assert_eq!(step(&good, &Unseen, time), unseen, "{time:?}");
            assert_eq!(step(&good, &Arrived, time), arrived, "{time:?}");
            assert_eq!(step(&good, &failed, time), failed_step, "{time:?}");
            assert_eq!(step(&good, &gone, time), gone_step, "{time:?}");
        }
        assert_eq!(step(&good, &Unseen, clock(60, Marker::Unsent)), Step::SendMarker);
        // Lost, with its queue perhaps.
        assert_eq!(step(&good, &Unseen, clock(360, sent(60))), Step::SendMarker);
        assert_eq!(step(&good, &Arrived, clock(1800, came(70))), end(&Finding::Stuck(sample)));
        // An alarm is not hidden by what says nothing.
        assert_eq!(step(&gone, &Unseen, clock(115, came(70))), end(&not_announced));
        assert_eq!(vanished.outcome(), Outcome::Unproved);
        // Both are named.
        let both = Finding::NotAnnounced(vec![Sample::Clean, sample]);
        assert_eq!(step(&Unseen, &Unseen, clock(115, came(70))), end(&both));
        assert!(both.to_string().contains("of the clean and the eicar canary came"), "{both}");
    }

    #[test]
    fn deadline_and_grace_end_before_the_next_round() {
        for (every, deadline, grace) in [(300, 60, 45), (20, 10, 5), (10, 9, 0), (86_400, 60, 45)] {
            let [every, deadline] = [every, deadline].map(Duration::from_secs);
            let limits = Limits::new(every, deadline);
            assert_eq!(limits.grace.as_secs(), grace);
            assert!(limits.deadline + limits.grace < every);
        }
    }
}
