//! Ceph RGW.
//!
//! Sources in ceph/ceph: `doc/radosgw/notifications.rst` (01584882 and later),
//! `s3-notification-compatibility.rst` (0989166a), `src/rgw/rgw_rest_pubsub.cc` (e7723298),
//! `src/rgw/driver/rados/rgw_pubsub_push.cc` (063c2a48), `rgw_amqp.cc`. `use-ssl` there is for Kafka
//! alone; `amqps` and `https` come from the URL. Over HTTP, RGW sends no token: only what curl makes
//! of user and password in the URL, `Authorization: Basic`. Nothing was tried here.

use serde_json::{Value, json};

use super::{CREATIONS, Deployment, REMOVALS, REPLACES, WHY_REMOVALS, amqp_url, in_quotes, quoted};

/// Objects that arrived from another zone.
const SYNCED: &str = "s3:ObjectSynced:Create";
/// Stands for the ARN in a command until the shell puts it in.
const ARN: &str = "THE_ARN";

/// The push by HTTP reads `verify-ssl` and no `ca-location`.
const AUTHORITY: &str = "# With a private authority, add it to those of the hosts of RGW: there is no \"ca-location\" for HTTP.\n";

pub(super) fn text(deployment: &Deployment<'_>) -> String {
    let by_http = deployment.intake.map(|_| by_http(deployment)).unwrap_or_default();
    format!("{}{by_http}\n# After a change of the topic, subscribe again.\n", by_amqp(deployment))
}

fn by_amqp(deployment: &Deployment<'_>) -> String {
    let broker = deployment.broker;
    let attributes = json!({
        "push-endpoint": amqp_url(broker),
        "amqp-exchange": broker.exchange,
        "amqp-ack-level": "routable",
        "persistent": "true",
        "verify-ssl": "true",
    });
    let authority = if broker.tls {
        "# With a private authority add the attribute \"ca-location\": its PEM file on the hosts of RGW.\n"
    } else {
        ""
    };
    format!(
        "# As the bucket's owner, with the AWS CLI and over https, or RGW refuses the password. rgw_enable_apis\n\
         # must contain \"notifications\". Start the daemon once before: RGW does not create the exchange, and\n\
         # at every ack level counts a message that no queue takes as delivered. The topic's name is the\n\
         # routing key. An event of a topic that is not persistent is sent once and then forgotten.\n\
         {}{authority}{}",
        create_topic(deployment, &broker.routing_key, &attributes),
        subscription(deployment)
    )
}

fn by_http(deployment: &Deployment<'_>) -> String {
    let attributes = json!({
        "push-endpoint": deployment.intake_url_with_login(),
        "persistent": "true",
        "verify-ssl": "true",
    });
    format!(
        "\n# Or, instead, by HTTP. RGW sends the token as the password of the URL (Basic).\n{}{}{}{}",
        deployment.about_the_intake(),
        deployment.authority(AUTHORITY),
        create_topic(deployment, "avscan", &attributes),
        subscription(deployment)
    )
}

fn create_topic(deployment: &Deployment<'_>, name: &str, attributes: &Value) -> String {
    format!(
        "arn=$(aws sns create-topic --endpoint-url {} --region {} --name {} \\\n    \
         --attributes {} --query TopicArn --output text)\n",
        quoted(deployment.endpoint.as_str().trim_end_matches('/')),
        quoted(deployment.region),
        quoted(name),
        in_quotes(&attributes.to_string()),
    )
}

fn subscription(deployment: &Deployment<'_>) -> String {
    let lines = deployment.each_bucket(|bucket| {
        let configuration = json!({ "TopicConfigurations": [{
            "Id": "avscan",
            "TopicArn": ARN,
            "Events": [CREATIONS, REMOVALS, SYNCED],
        }]});
        deployment.subscribe(bucket, &configuration).replace(ARN, "'\"$arn\"'")
    });
    format!(
        "# {SYNCED} is for objects from another zone: subscribe in each zone, and leave it out where\n\
         # RGW does not know it.\n\
         {WHY_REMOVALS}\n{REPLACES}\n{lines}"
    )
}
