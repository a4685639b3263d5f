//! `SeaweedFS`, whose filer speaks webhooks; it has no notifications by S3.
//!
//! Sources in seaweedfs/seaweedfs: `weed scaffold -config=notification` of 4.48,
//! `weed/notification/webhook/types.go` (3bb99fd8), `http.go` (086d4b90), `filter.go` (55c48204) and
//! `webhook_queue.go` (086ab3e2). The token is sent as `Authorization: Bearer TOKEN`. Tried with
//! 4.48: these settings, and that header.

use super::{Deployment, SYSTEM_AUTHORITIES, StoreKind, TOKEN};

pub(super) fn text(deployment: &Deployment<'_>) -> String {
    // By bucket, because the filer keeps files of its own in `/buckets/.system`. TOML writes these
    // strings as JSON does.
    let prefixes: Vec<String> =
        deployment.buckets().iter().map(|bucket| format!("/buckets/{bucket}/")).collect();
    let prefixes = serde_json::json!(prefixes);
    format!(
        "{}# In notification.toml of the filer, in its working folder, $HOME/.seaweedfs or /etc/seaweedfs:\n\
         [notification.webhook]\n\
         enabled = true\n\
         endpoint = \"{}\"\n\
         bearer_token = \"{TOKEN}\"\n\
         max_retries = 10\n\
         max_backoff_seconds = 300\n\
         buffer_size = 1000000\n\
         event_types = [\"create\", \"update\", \"rename\", \"delete\"]\n\
         path_prefixes = {prefixes}\n\
         {}{}\
         # Then restart the filer. These are files' events: create, update and rename stand for\n\
         # s3:ObjectCreated:*, delete for s3:ObjectRemoved:*, by which an older version can be uncovered.\n\
         \n\
         # The filer keeps events in memory alone, so a restart loses those that were not sent. It gives an\n\
         # event up after max_retries, here after about 20 minutes (3 tries are the default).\n\
         # A file that is moved in from elsewhere in the filer is not announced.\n",
        deployment.intake_needed(StoreKind::SeaweedFs),
        deployment.intake_url(""),
        deployment.about_the_intake(),
        deployment.authority(SYSTEM_AUTHORITIES),
    )
}
