//! Dell `ObjectScale`, which speaks webhooks alone.
//!
//! Sources: Dell's Administration Guides 1.2 ("Setting up bucket event notifications") and 1.3
//! ("About bucket event notifications", "Edit a bucket"). They do not say whether the token is sent
//! bare or after `Bearer`; the daemon takes both. Nothing was tried.

use super::{CREATIONS, Deployment, REMOVALS, StoreKind, TOKEN, WHY_REMOVALS};

/// Dell's guides do not say how.
const AUTHORITY: &str =
    "# ObjectScale has to trust the authority that signed the certificate of the intake.\n";

pub(super) fn text(deployment: &Deployment<'_>) -> String {
    let buckets = deployment.each_bucket(|bucket| {
        format!("#    {bucket}: Buckets, Edit, Event Rules: {CREATIONS} and {REMOVALS}\n")
    });
    format!(
        "{}{}{}\
         # 1. Add this destination to the account that owns the bucket:\n\
         <WebhookConfig>\n  \
           <AuthToken>{TOKEN}</AuthToken>\n  \
           <BackupLimit>1000</BackupLimit>\n  \
           <Comment>virus scanner</Comment>\n  \
           <Endpoint>{}</Endpoint>\n  \
           <Name>avscan</Name>\n\
         </WebhookConfig>\n\
         #    BackupLimit is how many undelivered events are kept.\n\
         # 2. In the portal give the bucket a rule with that destination:\n\
         {buckets}{WHY_REMOVALS}\n",
        deployment.intake_needed(StoreKind::ObjectScale),
        deployment.about_the_intake(),
        deployment.authority(AUTHORITY),
        deployment.intake_url(""),
    )
}
