//! `VersityGW`.
//!
//! Sources in versity/versitygw, up to 1.7: the flags in `cmd/versitygw/main.go`,
//! `extra/example.conf` (33b37be9), `s3event/rabbitmq.go` (36d2a551), `webhook.go` (236de9b8) and
//! `filter.go` (9fa26d9e). It has no setting for a token: Go sends user and password of a URL as
//! `Authorization: Basic`. Nothing was tried here.

use serde_json::json;

use super::{
    CREATIONS, Deployment, REMOVALS, SYSTEM_AUTHORITIES, WHY_REMOVALS, amqp_url, in_quotes,
};

const FILTER: &str = "/etc/versitygw.d/avscan-events.json";

pub(super) fn text(deployment: &Deployment<'_>) -> String {
    let by_webhook = deployment.intake.map(|_| by_webhook(deployment)).unwrap_or_default();
    format!(
        "{}{by_webhook}\n\
         # The gateway announces the uploads of all its buckets: the daemon needs its rights on each of them.\n",
        by_amqp(deployment)
    )
}

fn by_amqp(deployment: &Deployment<'_>) -> String {
    let broker = deployment.broker;
    let (url, exchange, key) = (amqp_url(broker), &broker.exchange, &broker.routing_key);
    let filter = in_quotes(&json!({ CREATIONS: true, REMOVALS: true }).to_string());
    let authorities = if broker.tls { SYSTEM_AUTHORITIES } else { "" };
    format!(
        "# Which events are sent, for all buckets. Without this file also those of tags, which are ignored.\n\
         {WHY_REMOVALS}\n\
         echo {filter} > {FILTER}\n\
         # In the environment of the gateway. Start the daemon before: the gateway does not create the exchange.\n\
         VGW_EVENT_FILTER={FILTER}\n\
         VGW_EVENT_RABBITMQ_URL={url}\n\
         VGW_EVENT_RABBITMQ_EXCHANGE={exchange}\n\
         VGW_EVENT_RABBITMQ_ROUTING_KEY={key}\n\
         {authorities}\
         # The gateway connects once, when it starts, and awaits no confirms: after a fault of the broker it\n\
         # announces nothing until it is restarted, and never what was uploaded in between.\n"
    )
}

fn by_webhook(deployment: &Deployment<'_>) -> String {
    format!(
        "\n# Or, instead, by webhook. The gateway sends the token as the password of the URL (Basic).\n\
         {}\
         VGW_EVENT_FILTER={FILTER}\n\
         VGW_EVENT_WEBHOOK_URL={}\n\
         {}\
         # Each event is sent once, and the answer is not looked at: while the daemon is away, or the token is\n\
         # wrong, events are lost and nothing says so.\n",
        deployment.about_the_intake(),
        deployment.intake_url_with_login(),
        deployment.authority(SYSTEM_AUTHORITIES),
    )
}
