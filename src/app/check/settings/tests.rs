use clap::ValueEnum;

use super::*;
use crate::config::{ExchangeType, QueueType, Secret};

const SECRET: &str = "broker-secret";

fn broker(tls: bool) -> BrokerSettings {
    BrokerSettings {
        host: "mq.internal".to_owned(),
        port: if tls { 5671 } else { 5672 },
        tls,
        user: "scanner-account".to_owned(),
        password: Secret::from(SECRET),
        vhost: "team/a b".to_owned(),
        queue: "q".to_owned(),
        routing_key: "my_uploads".to_owned(),
        exchange: "my-exchange".to_owned(),
        exchange_type: ExchangeType::Direct,
        queue_type: QueueType::Quorum,
    }
}

fn endpoint() -> Url {
    Url::parse("https://s3.internal:9000").unwrap()
}

fn intake(address: &str, tls: bool) -> IntakeEndpoint {
    IntakeEndpoint { address: address.parse().unwrap(), tls }
}

fn printed(
    kind: StoreKind,
    broker: &BrokerSettings,
    intake: Option<IntakeEndpoint>,
    buckets: &[&str],
) -> String {
    let buckets: Vec<String> = buckets.iter().map(|&bucket| bucket.to_owned()).collect();
    let endpoint = endpoint();
    let region = "eu-west-1";
    let deployment = Deployment { broker, endpoint: &endpoint, region, intake, buckets: &buckets };
    text(kind, &deployment)
}

/// How a store speaks AMQP and HTTP.
struct Row {
    kind: StoreKind,
    /// Lines that carry exchange and routing key; none for a store without AMQP.
    amqp: &'static [&'static str],
    /// What carries the webhook's URL, without scheme and port.
    webhook: &'static str,
    /// What carries the token.
    token: &'static str,
    /// What subscribes the bucket `in`.
    bucket: &'static str,
    /// What names the removals.
    removals: &'static str,
    /// How it comes to trust the intake's certificate.
    trust: &'static str,
}

const TABLE: &[Row] = &[
    Row {
        kind: StoreKind::Minio,
        amqp: &[
            "\nMINIO_NOTIFY_AMQP_EXCHANGE_SCAN=my-exchange\n",
            "\nMINIO_NOTIFY_AMQP_EXCHANGE_TYPE_SCAN=direct\n",
            "\nMINIO_NOTIFY_AMQP_ROUTING_KEY_SCAN=my_uploads\n",
        ],
        webhook: "\nMINIO_NOTIFY_WEBHOOK_ENDPOINT_SCAN=",
        token: "\nMINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_SCAN=INTAKE_TOKEN\n",
        bucket: "\nmc event add ALIAS/in arn:minio:sqs::SCAN:",
        removals: " --event put,delete ",
        trust: "certs/CAs",
    },
    Row {
        kind: StoreKind::Silo,
        amqp: &["\nMINIO_NOTIFY_AMQP_EXCHANGE_SCAN=my-exchange\n"],
        webhook: "\nMINIO_NOTIFY_WEBHOOK_ENDPOINT_SCAN=",
        token: "\nMINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_SCAN=INTAKE_TOKEN\n",
        bucket: "\nmc event add ALIAS/in arn:minio:sqs::SCAN:",
        removals: " --event put,delete ",
        trust: "certs/CAs",
    },
    Row {
        kind: StoreKind::RustFs,
        amqp: &[
            "\nRUSTFS_NOTIFY_AMQP_EXCHANGE_SCAN=my-exchange\n",
            "\nRUSTFS_NOTIFY_AMQP_ROUTING_KEY_SCAN=my_uploads\n",
            "\nRUSTFS_NOTIFY_AMQP_MANDATORY_SCAN=true\n",
        ],
        webhook: "\nRUSTFS_NOTIFY_WEBHOOK_ENDPOINT_SCAN=",
        token: "\nRUSTFS_NOTIFY_WEBHOOK_AUTH_TOKEN_SCAN=INTAKE_TOKEN\n",
        bucket: " --bucket in --notification-configuration '{\"QueueConfigurations\":[{",
        removals: "\"s3:ObjectRemoved:*\"",
        trust: "RUSTFS_NOTIFY_WEBHOOK_CLIENT_CA_SCAN",
    },
    Row {
        kind: StoreKind::Ceph,
        amqp: &[
            "\"amqp-exchange\":\"my-exchange\"",
            " --name my_uploads ",
            "\"amqp-ack-level\":\"routable\"",
            "\"persistent\":\"true\"",
        ],
        webhook: "\"push-endpoint\":\"",
        token: "://avscan:INTAKE_TOKEN@DAEMON:",
        bucket: " --bucket in --notification-configuration '{\"TopicConfigurations\":[{",
        removals: "\"s3:ObjectRemoved:*\",\"s3:ObjectSynced:Create\"",
        trust: "no \"ca-location\" for HTTP",
    },
    Row {
        kind: StoreKind::VersityGw,
        amqp: &[
            "\nVGW_EVENT_RABBITMQ_EXCHANGE=my-exchange\n",
            "\nVGW_EVENT_RABBITMQ_ROUTING_KEY=my_uploads\n",
        ],
        webhook: "\nVGW_EVENT_WEBHOOK_URL=",
        token: "://avscan:INTAKE_TOKEN@DAEMON:",
        bucket: "all its buckets",
        removals: "\"s3:ObjectRemoved:*\":true",
        trust: "SSL_CERT_FILE",
    },
    Row {
        kind: StoreKind::ObjectScale,
        amqp: &[],
        webhook: "<Endpoint>",
        token: "<AuthToken>INTAKE_TOKEN</AuthToken>",
        bucket: "#    in: ",
        removals: " and s3:ObjectRemoved:*",
        trust: "has to trust the authority",
    },
    Row {
        kind: StoreKind::SeaweedFs,
        amqp: &[],
        webhook: "\nendpoint = \"",
        token: "\nbearer_token = \"INTAKE_TOKEN\"\n",
        bucket: "\npath_prefixes = [\"/buckets/in/\"]\n",
        removals: ", \"delete\"]",
        trust: "SSL_CERT_FILE",
    },
];

#[test]
fn the_settings_of_every_store_fit_the_deployment() {
    let kinds: Vec<StoreKind> = TABLE.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, StoreKind::value_variants());
    for Row { kind, amqp, webhook, token, bucket, removals, trust } in TABLE {
        for tls in [false, true] {
            let broker = broker(tls);
            let (amqp_url, http) = if tls {
                ("amqps://USER:PASSWORD@mq.internal:5671/team%2Fa%20b", "https://")
            } else {
                ("amqp://USER:PASSWORD@mq.internal:5672/team%2Fa%20b", "http://")
            };
            let without = printed(*kind, &broker, None, &["in"]);
            let with = printed(*kind, &broker, Some(intake("[::]:8082", tls)), &["in"]);
            for text in [&without, &with] {
                for line in *amqp {
                    assert!(text.contains(line), "{line} in {text}");
                }
                assert_eq!(text.contains(amqp_url), !amqp.is_empty(), "{text}");
                assert!(text.contains(bucket) && text.contains(removals), "{text}");
                assert!(!text.contains(SECRET) && !text.contains("scanner-account"), "{text}");
                assert!(!text.contains("BUCKET"), "{text}");
            }
            let at = with.find(&format!("{webhook}{http}")).unwrap_or_else(|| panic!("{with}"));
            assert!(with[at..].contains("DAEMON:8082/events"), "{with}");
            assert!(with.contains(token) && !with.contains("INTAKE_ADDR"), "{with}");
            // By TLS to the intake alone: the hints for the broker may be the same.
            let intake = Some(intake("[::]:8082", tls));
            let hinted = printed(*kind, &self::broker(false), intake, &["in"]);
            assert_eq!(hinted.contains(trust), tls, "{hinted}");
            // A store that speaks webhooks alone is told of the intake that it needs.
            assert_eq!(without.contains("set INTAKE_ADDR"), amqp.is_empty(), "{without}");
            assert_eq!(
                without.contains("https://DAEMON:PORT/events"),
                amqp.is_empty(),
                "{without}"
            );
        }
    }
}

#[test]
fn without_buckets_a_placeholder_stands_for_them() {
    for kind in StoreKind::value_variants() {
        let text = printed(*kind, &broker(false), None, &[]);
        assert_eq!(text.contains("BUCKET"), *kind != StoreKind::VersityGw, "{text}");
        let text = printed(*kind, &broker(false), None, &["bucket-1", "bucket-2"]);
        for bucket in ["bucket-1", "bucket-2"] {
            assert_eq!(text.contains(bucket), *kind != StoreKind::VersityGw, "{text}");
        }
    }
}

#[test]
fn addresses_are_those_that_a_store_can_use() {
    let url = |intake| {
        let broker = broker(false);
        let endpoint = endpoint();
        let deployment = Deployment {
            broker: &broker,
            endpoint: &endpoint,
            region: "eu-west-1",
            intake: Some(intake),
            buckets: &[],
        };
        deployment.intake_url("")
    };
    assert_eq!(url(intake("0.0.0.0:8082", false)), "http://DAEMON:8082/events");
    assert_eq!(url(intake("10.0.0.7:8082", true)), "https://10.0.0.7:8082/events");
    assert_eq!(url(intake("[fd00::7]:8082", true)), "https://[fd00::7]:8082/events");

    let of = |host: &str, vhost: &str| {
        amqp_url(&BrokerSettings {
            host: host.to_owned(),
            vhost: vhost.to_owned(),
            ..broker(false)
        })
    };
    assert_eq!(of("mq", "/"), "amqp://USER:PASSWORD@mq:5672");
    assert_eq!(of("::1", "v"), "amqp://USER:PASSWORD@[::1]:5672/v");
}

#[test]
fn names_stay_one_word_of_the_shell() {
    assert_eq!(quoted("a-b_c.d/e"), "a-b_c.d/e");
    assert_eq!(quoted(""), "''");
    assert_eq!(quoted("a b"), "'a b'");
    assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    let odd = BrokerSettings { exchange: "x'\"y".to_owned(), ..broker(false) };
    let text = printed(StoreKind::Ceph, &odd, None, &["in"]);
    assert!(text.contains(r#""amqp-exchange":"x'\''\"y""#), "{text}");
}

/// The JSON in the commands is JSON.
#[test]
fn what_is_passed_as_json_can_be_read() {
    for kind in [StoreKind::RustFs, StoreKind::Ceph, StoreKind::VersityGw] {
        let text = printed(kind, &broker(true), Some(intake("[::]:1", true)), &["in"]);
        let arguments: Vec<&str> =
            text.split('\'').filter(|part| part.starts_with('{') && part.ends_with('}')).collect();
        assert!(!arguments.is_empty(), "{text}");
        for argument in arguments {
            serde_json::from_str::<Value>(argument)
                .unwrap_or_else(|error| panic!("{error}: {argument}"));
        }
    }
}
