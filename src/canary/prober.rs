//! Does a round: claims it, writes two canaries to each bucket, waits, concludes, cleans up.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Canaries;
use super::conclude::{Clock, Finding, Limits, Marker, Probe, Step, conclude};
use super::fact::{End, Fact, Outcome, PREFIX, Sample};
use super::ledger::Progress;
use crate::event;
use crate::policy::{self, Action, Context, Policy};
use crate::queue::{Inlet, Journal, JournalError};
use crate::store::{OwnFault, Removal};
use crate::trace::Trace;
use crate::verdict::Verdict;

/// How often a round looks at the time.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// Most that one look adds to the time: a process that was stopped has not waited.
const MAX_TICK: Duration = Duration::from_secs(1);

/// Added to the time after which an old result does not count any more.
const SILENCE_GRACE: Duration = Duration::from_mins(1);

/// What a round needs of the broker session.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) journal: &'a Journal,
    /// For the marker.
    pub(super) inlet: &'a Inlet,
}

/// A canary that this replica writes.
struct Sent {
    sample: Sample,
    key: String,
    sha256: String,
    body: Bytes,
    /// When the store answered to its upload.
    written: Instant,
    /// It came back, and that was measured.
    measured: bool,
}

impl Sent {
    /// A canary under a name that nobody can know before.
    fn new(sample: Sample) -> Self {
        let key = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let body = sample.body(&key);
        Self {
            sample,
            key,
            sha256: hex::encode(Sha256::digest(&body)),
            body,
            written: Instant::now(),
            measured: false,
        }
    }
}

/// The result of a round for a bucket, and why.
type Concluded = (Outcome, String);

impl Canaries {
    /// Waits until a round is due and everything that it needs is up.
    pub(super) async fn wait_until_due(&self) {
        loop {
            let left = self.state().begun.map_or(Duration::ZERO, |begun| {
                self.settings.every.saturating_sub(begun.elapsed())
            });
            let suspended = self.is_suspended();
            if !suspended && left.is_zero() {
                return;
            }
            self.look_for_silence(suspended);
            let pause = if left.is_zero() { TICK_INTERVAL } else { left };
            tokio::time::sleep(pause.min(TICK_INTERVAL)).await;
        }
    }

    /// An "up" must not stay for ever when no round ends any more.
    fn look_for_silence(&self, suspended: bool) {
        let limit = 2 * self.settings.every + self.settings.deadline + SILENCE_GRACE;
        let mut state = self.state();
        for bucket in &self.settings.buckets {
            let since = state.concluded.entry(bucket.clone()).or_insert_with(Instant::now);
            if suspended || since.elapsed() > limit {
                if !suspended {
                    let why = format!("no round ended for {} s", limit.as_secs());
                    self.board.show(bucket, Outcome::Unproved, &why);
                }
                *since = Instant::now();
            }
        }
    }

    /// Claims the next round. `None`: another replica was first.
    pub(super) async fn claim(&self, journal: &Journal) -> Result<Option<u64>, JournalError> {
        let last = self.state().ledger.claim();
        let round = last.map_or(0, |claim| claim.round).saturating_add(1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(now.as_secs()).unwrap_or_default();
        journal.append_and_read(&Fact::Claimed { round, by: self.me, at }).await?;
        let claim = self.state().ledger.claim();
        let won = claim.is_some_and(|claim| (claim.round, claim.by) == (round, self.me));
        tracing::debug!(round, won, "round of the source canary");
        Ok(won.then_some(round))
    }

    /// Does the round in all buckets at once.
    pub(super) async fn do_round(&self, way: Way<'_>, round: u64) -> Result<(), JournalError> {
        let buckets = &self.settings.buckets;
        let probes = buckets.iter().map(|bucket| self.probe(way, round, bucket));
        futures_util::future::try_join_all(probes).await.map(drop)
    }

    /// Does the round in one bucket.
    async fn probe(&self, way: Way<'_>, round: u64, bucket: &str) -> Result<(), JournalError> {
        let journal = way.journal;
        let mut sent = Vec::new();
        let concluded = match self.prepare(journal, round, bucket).await? {
            Ok(()) => self.send_and_wait(way, round, bucket, &mut sent).await?,
            Err(why) => (Outcome::Unproved, why),
        };
        let (mut outcome, mut why) = concluded;
        self.conclude(journal, round, bucket, outcome, &why).await?;
        for canary in &sent {
            let removed = self.remove(journal, bucket, &canary.key, &canary.sha256).await?;
            // Objects that cannot be removed must not become more with each round.
            if let Err(fault @ OwnFault::Denied { .. }) = removed
                && outcome == Outcome::Up
            {
                (outcome, why) =
                    (Outcome::Unproved, format!("canaries cannot be removed: {fault}"));
                self.conclude(journal, round, bucket, outcome, &why).await?;
            }
        }
        Ok(())
    }

    async fn conclude(
        &self,
        journal: &Journal,
        round: u64,
        bucket: &str,
        outcome: Outcome,
        why: &str,
    ) -> Result<(), JournalError> {
        let (bucket, why) = (bucket.to_owned(), why.to_owned());
        journal.append(&Fact::Concluded { round, bucket, outcome, why }).await
    }

    /// Makes sure that what is written can be removed again. The inner error says why not.
    async fn prepare(
        &self,
        journal: &Journal,
        round: u64,
        bucket: &str,
    ) -> Result<Result<(), String>, JournalError> {
        match self.store.keeps_new_objects(bucket).await {
            Ok(false) => {}
            Ok(true) => {
                let why = "the bucket has a default retention, so canaries could not be removed: \
                           take it out of CANARY_BUCKETS";
                return Ok(Err(why.to_owned()));
            }
            Err(fault) => return Ok(Err(fault.to_string())),
        }
        let leftovers = self.state().ledger.leftovers(bucket, self.me, round);
        for (key, sha256) in leftovers {
            match self.remove(journal, bucket, &key, &sha256).await? {
                Ok(()) => {}
                // The same words as in the round in which nothing could be written.
                Err(fault @ OwnFault::NoBucket) => return Ok(Err(fault.to_string())),
                Err(fault) => {
                    let why = format!("canaries of earlier rounds cannot be removed: {fault}");
                    return Ok(Err(why));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Writes both canaries, and waits until they come back or it is clear that they do not.
    async fn send_and_wait(
        &self,
        way: Way<'_>,
        round: u64,
        bucket: &str,
        sent: &mut Vec<Sent>,
    ) -> Result<Concluded, JournalError> {
        for sample in [Sample::Clean, Sample::Eicar] {
            let canary = Sent::new(sample);
            let Sent { key, sha256, body, .. } = &canary;
            let announced = Fact::Announced {
                round,
                by: self.me,
                bucket: bucket.to_owned(),
                key: key.clone(),
                sha256: sha256.clone(),
                sample,
            };
            // Before it is written: a worker must never have it before it can be known.
            way.journal.append_and_read(&announced).await?;
            let written = self.store.put_own(bucket, key, body.clone()).await;
            sent.push(Sent { written: Instant::now(), ..canary });
            match written {
                Ok(()) => {}
                Err(fault @ OwnFault::NoBucket) => {
                    return Ok((Outcome::Unproved, fault.to_string()));
                }
                Err(fault) => {
                    return Ok((Outcome::Unproved, format!("a canary cannot be written: {fault}")));
                }
            }
        }
        Ok(self.wait(way.inlet, bucket, sent).await)
    }

    async fn wait(&self, inlet: &Inlet, bucket: &str, sent: &mut [Sent]) -> Concluded {
        let limits = Limits::new(self.settings.every, self.settings.deadline);
        let mut clock = Clock { running: Duration::ZERO, marker: Marker::Unsent };
        let marker = Uuid::new_v4();
        let mut changed = self.changed.subscribe();
        let mut looked = Instant::now();
        loop {
            let passed = std::mem::replace(&mut looked, Instant::now()).elapsed().min(MAX_TICK);
            // The deadline runs only while notifications are taken.
            if !self.is_suspended() {
                clock.running += passed;
            }
            if matches!(clock.marker, Marker::Sent(_)) && self.state().ledger.came(marker) {
                clock.marker = Marker::Came(clock.running);
            }
            match self.look(bucket, sent, clock, limits) {
                Step::End(finding) => {
                    let finding = self.confirmed(bucket, sent, finding).await;
                    return (finding.outcome(), finding.to_string());
                }
                Step::SendMarker => {
                    // One that was not taken is sent again with the next look.
                    match inlet.take(&event::marker(marker), &Trace::default()).await {
                        Ok(()) => clock.marker = Marker::Sent(clock.running),
                        Err(error) => tracing::debug!(%error, "the marker is not queued"),
                    }
                }
                Step::Wait => {}
            }
            tokio::select! {
                // Fails only without a sender, and we hold it.
                _ = changed.changed() => {}
                () = tokio::time::sleep(TICK_INTERVAL) => {}
            }
        }
    }

    /// Looks at the object before the alarm that nothing was done to it: a replica that could not use
    /// the journal at that moment has done its work, and said nothing.
    async fn confirmed(&self, bucket: &str, sent: &[Sent], finding: Finding) -> Finding {
        let suspects = match &finding {
            Finding::NotAnnounced(samples) => samples.clone(),
            Finding::Stuck(sample) => vec![*sample],
            _ => return finding,
        };
        for canary in sent.iter().filter(|canary| suspects.contains(&canary.sample)) {
            if self.store.was_acted_on(bucket, &canary.key, &self.policy.settings.tag_key).await {
                return Finding::Unsaid(canary.sample);
            }
        }
        finding
    }

    /// What to do, from how far the canaries have come.
    fn look(&self, bucket: &str, sent: &mut [Sent], clock: Clock, limits: Limits) -> Step {
        let state = self.state();
        let mut probes = Vec::new();
        for canary in sent {
            // One that is forgotten was removed by somebody else.
            let progress = state.ledger.canary(bucket, &canary.key);
            let progress = progress.map_or(&Progress::Ended(End::Gone), |known| &known.progress);
            let applied = matches!(progress, Progress::Ended(End::Applied { .. }));
            if applied && !std::mem::replace(&mut canary.measured, true) {
                self.board.came_back(canary.written.elapsed());
            }
            let action = expected(&self.policy, bucket, canary, progress);
            probes.push(Probe { sample: canary.sample, action, progress });
        }
        conclude(&probes, clock, limits)
    }

    /// Removes a canary, if its bytes are still those that were announced. The inner error says why
    /// it may be there; a later round tries again.
    async fn remove(
        &self,
        journal: &Journal,
        bucket: &str,
        key: &str,
        sha256: &str,
    ) -> Result<Result<(), OwnFault>, JournalError> {
        match self.store.remove_own(bucket, key, sha256).await {
            Ok(Removal::Gone) => {}
            Ok(Removal::NotOurs) => {
                tracing::warn!(bucket, key, "other bytes than the canary's are there: left alone");
            }
            Err(fault) => {
                tracing::debug!(bucket, key, %fault, "a canary is not removed");
                return Ok(Err(fault));
            }
        }
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        journal.append_and_read(&Fact::Removed { bucket, key }).await.map(Ok)
    }

    /// Whether something is down that a canary needs; shown, with the reason.
    fn is_suspended(&self) -> bool {
        let missing = self.health.readiness().missing;
        let why: Vec<String> =
            missing.iter().map(|(part, reason)| format!("{part} is down ({reason})")).collect();
        let why = (!why.is_empty()).then(|| why.join(", "));
        self.board.suspend(why.as_deref());
        why.is_some()
    }
}

/// What has to be done to a canary. The engine chooses the signature of EICAR, and rules may depend on
/// it.
fn expected(policy: &Policy, bucket: &str, canary: &Sent, progress: &Progress) -> Action {
    let found = match progress {
        Progress::Ended(End::Applied { signature, .. }) => signature.clone(),
        _ => None,
    };
    let verdict = match canary.sample {
        Sample::Clean => Verdict::Clean,
        Sample::Eicar => Verdict::Infected { signature: found.unwrap_or_default() },
    };
    let (key, repeated, pinned) = (canary.key.as_str(), false, true);
    let (provable, released, surge) = (true, false, None);
    let context =
        Context { bucket, key, repeated, pinned, canary: true, provable, released, surge };
    policy::plan(&verdict, policy, context).action
}
