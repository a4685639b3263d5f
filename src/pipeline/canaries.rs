//! What is different for a canary: it is reported only if `REPORT_CANARY` is set, and its end is
//! recorded for its round.

use super::{Interrupted, ObjectEnd, Pipeline};
use crate::canary::{Canaries, End};
use crate::event::ObjectRef;
use crate::failure::Kind;
use crate::policy::Action;
use crate::report::{EffectError, Examined, Trigger};
use crate::verdict::Verdict;

impl Pipeline {
    /// The canaries, if one is expected under the object's name.
    pub(super) async fn expecting(&self, object: &ObjectRef) -> Option<&Canaries> {
        let canaries = self.canaries.as_deref()?;
        canaries.arrived(&object.bucket, &object.key).await.then_some(canaries)
    }

    /// Marks a canary as such: by its name and its very bytes.
    pub(super) async fn recognise(&self, mut examined: Box<Examined>) -> Box<Examined> {
        if let Some(canaries) = &self.canaries {
            let (bucket, key) = (&examined.identity.bucket, &examined.identity.key);
            if canaries.is_canary(bucket, key, examined.sha256.as_deref()).await {
                examined.trigger = Trigger::Canary;
            }
        }
        examined
    }

    /// Whether results about it are for its round alone.
    pub(super) fn is_unreported(&self, examined: &Examined) -> bool {
        let reported = self.canaries.as_ref().is_some_and(|canaries| canaries.are_reported());
        examined.trigger == Trigger::Canary && !reported
    }

    /// Records for the round of a canary that its effect is done.
    pub(super) async fn record_applied(&self, examined: &Examined, action: Action) {
        let status = examined.status();
        let signature = match &examined.verdict {
            Verdict::Infected { signature } => Some(signature.clone()),
            Verdict::Clean | Verdict::Unscannable { .. } => None,
        };
        self.record_end(examined, End::Applied { status, action, signature }).await;
    }

    /// Records for the round of a canary that its effect was refused. Returns whether it is one.
    pub(super) async fn record_refused(&self, examined: &Examined, error: EffectError) -> bool {
        self.record_end(examined, End::Failed { reason: error.to_string() }).await;
        examined.trigger == Trigger::Canary
    }

    async fn record_end(&self, examined: &Examined, end: End) {
        if let (Trigger::Canary, Some(canaries)) = (examined.trigger, &self.canaries) {
            canaries.ended(&examined.identity.bucket, &examined.identity.key, end).await;
        }
    }
}

/// Records for the round of an expected canary why this delivery did not get to an effect.
pub(super) async fn record(
    canaries: &Canaries,
    object: &ObjectRef,
    ended: &Result<ObjectEnd, Interrupted>,
) {
    let end = match ended {
        // It is recorded already, or each version gets a delivery of its own.
        Ok(ObjectEnd::CanaryRefused | ObjectEnd::Versions(_)) => return,
        // Gone, or other bytes are there; of a canary that was applied this changes nothing.
        Ok(_) => End::Gone,
        // A gate closed, or the session is lost: it comes back.
        Err(Interrupted { failure, .. })
            if matches!(failure.kind, Kind::Abandoned | Kind::Down(_)) =>
        {
            return;
        }
        Err(interrupted) => End::Failed { reason: interrupted.failure.to_string() },
    };
    canaries.ended(&object.bucket, &object.key, end).await;
}
