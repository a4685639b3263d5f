//! `RustFS`.
//!
//! Sources in rustfs/rustfs, up to 2026-08: `crates/config/src/notify/amqp.rs` (81ad48da) and
//! `webhook.rs` (23687fe2), `crates/targets/src/target/amqp.rs` (05358464) and `webhook.rs`, the
//! booleans and the default of `mandatory` in `crates/targets/src/config/target_args.rs`,
//! `docs/operations/outbound-connection-policy.md` (0a975f2f); the ARN, `NOTIFY_ENABLE` and
//! `CLIENT_CA` in the event notification page of its documentation. A token of one word is sent as
//! `Authorization: Bearer TOKEN`. Before, a HEAD goes to `/`; any answer will do. Nothing was tried.

use serde_json::json;

use super::{CREATIONS, Deployment, REMOVALS, REPLACES, TOKEN, WHY_REMOVALS, amqp_url};
use crate::intake;

pub(super) fn text(deployment: &Deployment<'_>) -> String {
    format!(
        "{}{}\n\
         # Objects that arrive by replication are not announced: scan them where they are uploaded.\n\
         # RustFS on the disks of a MinIO does not take over its event settings: subscribe every bucket again.\n",
        by_amqp(deployment),
        deployment.intake.map(|_| by_webhook(deployment)).unwrap_or_default()
    )
}

fn by_amqp(deployment: &Deployment<'_>) -> String {
    let broker = deployment.broker;
    let (url, exchange, key) = (amqp_url(broker), &broker.exchange, &broker.routing_key);
    let authority = if broker.tls {
        "# With a private authority, its PEM file by an absolute path:\n\
         # RUSTFS_NOTIFY_AMQP_TLS_CA_SCAN=/path/ca.crt\n"
    } else {
        ""
    };
    format!(
        "# In the environment of RustFS. Start the daemon once before: RustFS does not create the exchange.\n\
         # The folder is absolute, and keeps events while the broker is away. Without MANDATORY, a message\n\
         # that no queue takes is lost.\n\
         RUSTFS_NOTIFY_ENABLE=true\n\
         RUSTFS_NOTIFY_AMQP_ENABLE_SCAN=on\n\
         RUSTFS_NOTIFY_AMQP_URL_SCAN={url}\n\
         RUSTFS_NOTIFY_AMQP_EXCHANGE_SCAN={exchange}\n\
         RUSTFS_NOTIFY_AMQP_ROUTING_KEY_SCAN={key}\n\
         RUSTFS_NOTIFY_AMQP_MANDATORY_SCAN=true\n\
         RUSTFS_NOTIFY_AMQP_PERSISTENT_SCAN=true\n\
         RUSTFS_NOTIFY_AMQP_QUEUE_DIR_SCAN=/a/folder/on/a/volume\n\
         {authority}{}",
        subscription(deployment, "amqp")
    )
}

fn by_webhook(deployment: &Deployment<'_>) -> String {
    let url = deployment.intake_url("");
    let origin = url.trim_end_matches(intake::PATH);
    let authority = deployment.authority(
        "# With a private authority:\n\
         # RUSTFS_NOTIFY_WEBHOOK_CLIENT_CA_SCAN=/path/ca.crt\n",
    );
    format!(
        "\n# Or, instead, by webhook. Private addresses are blocked unless their origin is allowed; the\n\
         # variable holds all allowed origins, separated by commas.\n\
         {}\
         RUSTFS_NOTIFY_ENABLE=true\n\
         RUSTFS_NOTIFY_WEBHOOK_ENABLE_SCAN=on\n\
         RUSTFS_NOTIFY_WEBHOOK_ENDPOINT_SCAN={url}\n\
         RUSTFS_NOTIFY_WEBHOOK_AUTH_TOKEN_SCAN={TOKEN}\n\
         RUSTFS_NOTIFY_WEBHOOK_QUEUE_DIR_SCAN=/a/folder/on/a/volume\n\
         RUSTFS_OUTBOUND_ALLOW_ORIGINS={origin}\n\
         {authority}{}",
        deployment.about_the_intake(),
        subscription(deployment, "webhook")
    )
}

fn subscription(deployment: &Deployment<'_>, target: &str) -> String {
    let lines = deployment.each_bucket(|bucket| {
        let configuration = json!({ "QueueConfigurations": [{
            "Id": "avscan",
            "QueueArn": format!("arn:rustfs:sqs:us-east-1:scan:{target}"),
            "Events": [CREATIONS, REMOVALS],
        }]});
        deployment.subscribe(bucket, &configuration)
    });
    format!(
        "# Restart RustFS, then subscribe. The region in the ARN is RustFS' own, us-east-1 unless changed.\n\
         {WHY_REMOVALS}\n{REPLACES}\n{lines}"
    )
}
