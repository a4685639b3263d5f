//! Sets an object's status and, with a key, the receipt that proves it.

use std::sync::Arc;
use std::time::SystemTime;

use super::Pipeline;
use super::effects::to_its_end;
use crate::clock;
use crate::config::PolicySettings;
use crate::failure::Failure;
use crate::policy::{Action, Plan};
use crate::receipt::{self, Database, Found, Keys, Statement};
use crate::report::Examined;
use crate::store::{Applied, Identity, Observation, Pin, Store, Tagged, Tags};
use crate::verdict::Status;

/// How the tagging of an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tagging {
    Ended(Applied),
    /// A receipt of another status is on it and says more: its scan began later, or used a newer
    /// database. The object was left alone.
    Outranked,
}

impl Pipeline {
    pub(super) async fn tag(
        &self,
        identity: &Identity,
        observation: Option<Observation>,
        statement: Statement,
    ) -> Result<Tagging, Failure> {
        let (store, keys) = (Arc::clone(&self.store), Arc::clone(&self.keys));
        let (identity, key) = (identity.clone(), self.policy.settings.tag_key.clone());
        to_its_end(
            async move { tag(&store, &keys, &key, (&identity, observation), &statement).await },
        )
        .await
    }

    /// The plan, or the tag instead of nothing: a rule that leaves the object alone must not leave it
    /// with a status that an earlier scan, or its uploader, gave it.
    pub(super) async fn with_status_corrected(
        &self,
        examined: &Examined,
        plan: Plan,
    ) -> Result<Plan, Failure> {
        let PolicySettings { tag_files, tag_key, .. } = &self.policy.settings;
        let identity = &examined.identity;
        let is_left_alone = plan.status != Status::Clean && plan.action == Action::No;
        if !is_left_alone || !tag_files || identity.pin == Pin::Nothing {
            return Ok(plan);
        }
        let receipt_key = receipt::tag_key(tag_key);
        let has_none = match self.store.read_tags(identity, None).await? {
            Ok(found) => !found.tags.iter().any(|(key, _)| key == tag_key || *key == receipt_key),
            Err(applied) => applied == Applied::NoTagging,
        };
        // Of what else stands in the way of reading them the tagging tells what it means.
        Ok(if has_none { plan } else { Plan { action: Action::Tag, ..plan } })
    }
}

/// What a receipt says of an examined object.
pub(super) fn statement(examined: &Examined) -> Statement {
    let began = clock::millis(examined.started);
    if let (true, Some(finding), Some(sha256)) =
        (examined.released, examined.verdict.finding(), &examined.sha256)
    {
        return Statement::release(sha256, finding, began);
    }
    Statement {
        status: examined.status(),
        began,
        database: examined.engine.as_ref().map(|e| Database::from(&e.version)).unwrap_or_default(),
        sha256: examined.sha256.clone(),
        finding: None,
    }
}

/// What a receipt says of an object that could not be examined.
pub(super) fn unexamined() -> Statement {
    Statement {
        status: Status::No,
        began: clock::millis(SystemTime::now()),
        database: Database::default(),
        sha256: None,
        finding: None,
    }
}

/// Sets the status of a statement and, with a key, the receipt that says the same. `scanned` is which
/// bytes, and what the answer to the GET said of them.
pub(crate) async fn tag(
    store: &Store,
    keys: &Keys,
    tag_key: &str,
    scanned: (&Identity, Option<Observation>),
    statement: &Statement,
) -> Result<Tagging, Failure> {
    let receipt_key = receipt::tag_key(tag_key);
    let status = (tag_key.to_owned(), statement.status.into_str().to_owned());
    let (identity, observation) = scanned;
    // Before a tag Last-Modified is compared, and after it only where a receipt binds it.
    let compared = identity.version_id().is_some() || keys.signing().is_some();
    let mut observation = observation.filter(|_| compared);
    let mut with_receipt = true;
    loop {
        let found = match store.read_tags(identity, observation.take()).await? {
            Ok(found) => found,
            Err(applied) => return Ok(Tagging::Ended(applied)),
        };
        if let Some(stays) = outranking(&found, &receipt_key, keys, statement) {
            let says_the_same = stays == statement.status && found.tags.contains(&status);
            return Ok(if says_the_same {
                Tagging::Ended(Applied::Done)
            } else {
                Tagging::Outranked
            });
        }
        let signing = keys.signing().filter(|_| with_receipt);
        let bind_modified = signing.is_some()
            && found.identity.version_id().is_none()
            && found.identity.modified().is_some();
        let mut set = vec![status.clone()];
        set.extend(
            signing.map(|key| {
                (receipt_key.clone(), statement.sign(key, &found.identity, bind_modified))
            }),
        );
        // A receipt must not say another status than the tag beside it. A release stays where no other
        // can be signed.
        let is_kept = statement.status == Status::Released && signing.is_none();
        let remove = if is_kept { Vec::new() } else { vec![receipt_key.clone()] };
        let tags = Tags { set, remove, bind_modified };
        match store.write_tags(&found, &tags).await {
            Err(failure) if found.unasked => {
                tracing::debug!(%failure, "not tagged at once: what is there is asked first");
            }
            Ok(Applied::TagSetFull) if signing.is_some() => {
                tracing::info!("the object has too many tags for a receipt");
                with_receipt = false;
            }
            applied => return Ok(Tagging::Ended(applied?)),
        }
    }
}

/// The status that a receipt on the object has to keep, as it says more than ours.
fn outranking(found: &Tagged, receipt_key: &str, keys: &Keys, ours: &Statement) -> Option<Status> {
    let (_, receipt) = found.tags.iter().find(|(key, _)| key == receipt_key)?;
    match receipt::check(receipt, keys, &found.identity) {
        Found::Valid { statement, .. } => {
            let outranks = statement.outranks(ours, clock::millis(SystemTime::now()));
            outranks.then_some(statement.status)
        }
        Found::ByName(_) | Found::OfAnotherObject | Found::OfAnUnknownKey | Found::Forged => None,
    }
}
