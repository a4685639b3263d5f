//! Deletions that a surge holds back.

use super::{ObjectEnd, Pipeline};
use crate::failure::Failure;
use crate::policy::{Action, Plan};
use crate::report::Examined;
use crate::verdict::Verdict;

impl Pipeline {
    /// Finds out whether a surge holds the deletion of the object, if it is to be deleted.
    ///
    /// # Errors
    /// When that cannot be known now. The object is tagged: it stays readable until then.
    pub(super) async fn ask_about_surge(&self, examined: &mut Examined) -> Result<(), Failure> {
        let (Some(surges), Verdict::Infected { signature }) = (&self.surges, &examined.verdict)
        else {
            return Ok(());
        };
        if examined.is_canary() || self.plan(examined, false).action != Action::Delete {
            return Ok(());
        }
        let sha256 = examined.sha256.as_deref().unwrap_or_default();
        match surges.about(signature, sha256).await {
            Ok(surge) => examined.surge = surge,
            Err(failure) => {
                self.tag_instead(examined).await;
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// The end of an object, after its verdict was applied and reported: one whose deletion is held waits for
/// a person.
pub(super) fn held_back(end: ObjectEnd, examined: &Examined, plan: Plan) -> ObjectEnd {
    match (&examined.verdict, end) {
        (Verdict::Infected { signature }, end) if plan.parked => match end {
            ObjectEnd::Applied | ObjectEnd::Superseded | ObjectEnd::Refused { .. } => {
                ObjectEnd::Held { signature: signature.clone() }
            }
            end => end,
        },
        (_, end) => end,
    }
}
