//! `MinIO`, and Silo, which continues it and has the same settings.
//!
//! Sources: `internal/event/target/amqp.go` and `webhook.go` of minio/minio (0d1391c8, 000d1794)
//! and of pgsty/minio (9b11dc94, 2026), the authorities in `cmd/server-main.go` (`GetRootCAs`) and
//! `docs/tls/README.md` ("Install Certificates from Third-party CAs"), `cmd/event-add.go` of minio/mc (1402987c). A token of one
//! word is sent as `Authorization: Bearer TOKEN`; the probe before it is a HEAD without token
//! (older releases) or a mere connection. Tried: the webhook of a gateway of this lineage, `JuiceFS`
//! 1.4.2, which sends that header and that HEAD.

use super::{Deployment, SYSTEM_AUTHORITIES, StoreKind, TOKEN, WHY_REMOVALS, amqp_url, quoted};
use crate::config::{BrokerSettings, ExchangeType};

/// The webhook is sent with the authorities of the server: the system's and those of this folder.
const AUTHORITY: &str = "# With a private authority, put its PEM file into certs/CAs of the configuration folder (~/.minio),\n\
                         # or name it in SSL_CERT_FILE.\n";

/// The variables of the AMQP target.
pub(in crate::app::check) fn amqp(broker: &BrokerSettings) -> String {
    let kind = match broker.exchange_type {
        ExchangeType::Topic => "topic",
        ExchangeType::Direct => "direct",
        ExchangeType::Fanout => "fanout",
    };
    let (url, exchange, key) = (amqp_url(broker), &broker.exchange, &broker.routing_key);
    // The variable of the confirms is not called after its setting, `publisher_confirms`.
    format!(
        "MINIO_NOTIFY_AMQP_ENABLE_SCAN=on\n\
         MINIO_NOTIFY_AMQP_URL_SCAN={url}\n\
         MINIO_NOTIFY_AMQP_EXCHANGE_SCAN={exchange}\n\
         MINIO_NOTIFY_AMQP_EXCHANGE_TYPE_SCAN={kind}\n\
         MINIO_NOTIFY_AMQP_ROUTING_KEY_SCAN={key}\n\
         MINIO_NOTIFY_AMQP_DURABLE_SCAN=on\n\
         MINIO_NOTIFY_AMQP_DELIVERY_MODE_SCAN=2\n\
         MINIO_NOTIFY_AMQP_PUBLISHING_CONFIRMS_SCAN=on\n\
         MINIO_NOTIFY_AMQP_QUEUE_DIR_SCAN=/a/folder/on/a/volume"
    )
}

pub(super) fn text(store: StoreKind, deployment: &Deployment<'_>) -> String {
    let authorities = if deployment.broker.tls { SYSTEM_AUTHORITIES } else { "" };
    let by_amqp = format!(
        "# In the environment of {store}. Start the daemon once before: {store} does not notice when no\n\
         # queue takes its messages. The folder is absolute, and keeps events while the broker is away.\n\
         {}\n{authorities}{}",
        amqp(deployment.broker),
        subscription(store, deployment, "amqp")
    );
    let by_webhook = deployment.intake.map(|_| {
        format!(
            "\n# Or, instead, by webhook. Without the folder an event that is not taken at once is lost.\n\
             {}\
             MINIO_NOTIFY_WEBHOOK_ENABLE_SCAN=on\n\
             MINIO_NOTIFY_WEBHOOK_ENDPOINT_SCAN={}\n\
             MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_SCAN={TOKEN}\n\
             MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_SCAN=/a/folder/on/a/volume\n\
             {}{}",
            deployment.about_the_intake(),
            deployment.intake_url(""),
            deployment.authority(AUTHORITY),
            subscription(store, deployment, "webhook")
        )
    });
    format!(
        "{by_amqp}{}\n\
         # Objects that arrive by replication are not announced: scan them where they are uploaded.\n\
         # An event can be lost when the store crashes.\n",
        by_webhook.unwrap_or_default()
    )
}

fn subscription(store: StoreKind, deployment: &Deployment<'_>, target: &str) -> String {
    let lines = deployment.each_bucket(|bucket| {
        let bucket = quoted(&format!("ALIAS/{bucket}"));
        format!(
            "mc event add {bucket} arn:minio:sqs::SCAN:{target} --event put,delete --ignore-existing\n"
        )
    });
    format!(
        "# Restart {store}, then subscribe (`mc admin info --json ALIAS` lists the ARN). put is\n\
         # s3:ObjectCreated:*, with changes of tags, which the daemon ignores; delete is s3:ObjectRemoved:*.\n\
         {WHY_REMOVALS}\n{lines}"
    )
}
