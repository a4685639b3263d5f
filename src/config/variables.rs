//! The table of settings: one row each, the source of the defaults, of `--help`, and of the test that
//! docs/CONFIGURATION.md names them all.

/// One setting.
#[derive(Debug)]
pub struct Variable {
    /// The environment variable; in lower case, the key in the YAML file.
    pub name: &'static str,
    /// The built-in default as text; `None` where there is none or it depends on other settings.
    pub default: Option<&'static str>,
    /// Whether it is never printed and may be given as a file by `NAME_FILE`.
    pub secret: bool,
    /// Its purpose, with units, for `--help`.
    pub help: &'static str,
}

const fn plain(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable { name, default: Some(default), secret: false, help }
}

const fn open(name: &'static str, help: &'static str) -> Variable {
    Variable { name, default: None, secret: false, help }
}

const fn secret(name: &'static str, help: &'static str) -> Variable {
    Variable { name, default: None, secret: true, help }
}

/// Every setting, grouped by subject.
pub const VARIABLES: &[Variable] = &[
    plain("MINIO_SERVER_URL", "https://minio-service:9000", "S3 endpoint, http or https"),
    secret("MINIO_ACCESS_KEY_ID", "S3 access key; with neither key, the AWS credential chain"),
    secret("MINIO_SECRET_ACCESS_KEY", "S3 secret key"),
    plain("MINIO_REGION", "eu-west-1", "S3 region"),
    plain("RABBITMQ_ENDPOINT", "mq-service", "RabbitMQ host"),
    open("RABBITMQ_PORT", "RabbitMQ port (default 5672, or 5671 with RABBITMQ_TLS=true)"),
    plain("RABBITMQ_TLS", "false", "connect by amqps"),
    open("RABBITMQ_REGULAR_USER_NAME", "RabbitMQ user, required"),
    secret("RABBITMQ_REGULAR_USER_PASS", "RabbitMQ password, required"),
    plain("RABBITMQ_VHOST", "/", "RabbitMQ virtual host"),
    plain("RABBITMQ_QUEUE_NAME", "s3minioqueue", "queue of notifications; prefix of all our names"),
    plain("RABBITMQ_QUEUE_ROUTING_KEY", "bucket_notifications", "routing key of notifications"),
    plain("RABBITMQ_TOPIC", "s3minioscan", "exchange that the store publishes to"),
    plain("RABBITMQ_TOPIC_TYPE", "topic", "its type if declared here: topic, direct or fanout"),
    plain("RABBITMQ_QUEUE_TYPE", "quorum", "type of the declared queues: quorum or classic"),
    plain("SCANNER", "clamav-rest", "engine: clamav-rest or clamd"),
    plain("CLAMD_ENDPOINT", "clamd-service", "engine: host or URL; for clamd also unix:///path"),
    open("CLAMD_PORT", "engine port (default 9443, or 3310 with SCANNER=clamd)"),
    plain("SCAN_CONCURRENCY", "4", "objects scanned at once, 1 to 256"),
    plain("SCAN_TIMEOUT", "300", "longest scan of one object, seconds, 1 to 900"),
    plain("VOLUME_SIZE", "2", "largest object scanned, GiB; larger ones are reported unscanned"),
    open("SPOOL_SIZE", "temp disk for all objects in flight, GiB (default twice VOLUME_SIZE)"),
    open("TMPDIR", "folder of the temp files (default /tmp)"),
    plain("STRICT_LIMITS", "false", "refuse an engine that hides encrypted or over-limit files"),
    plain("DATABASE_MAX_AGE", "7", "days after which the virus database is warned about; 0 never"),
    plain("DELETE_FILE", "true", "delete infected objects"),
    open("QUARANTINE_BUCKET", "bucket that infected objects are moved to, not deleted"),
    plain("TAG_FILES", "true", "tag objects with their status"),
    plain("TAG_KEY", "scanned", "key of that tag"),
    open("RULES_FILE", "YAML file of rules: which action for which finding (default none)"),
    plain("SURGE_LIMIT", "50", "contents by one signature deleted in SURGE_WINDOW; 0 no limit"),
    plain("SURGE_WINDOW", "10m", "time in which they are counted (s, m, h), 1s to 24h"),
    plain(
        "SURGE_WITHOUT_QUARANTINE",
        "tag",
        "further ones where there is no quarantine: tag (parked), or delete (alarm only)",
    ),
    plain("REPORT_CLEAN", "false", "report clean objects too"),
    open("PUBLISH_URL", "webhook that reports are POSTed to, http or https"),
    secret("PUBLISH_SECRET", "signs reports (Standard Webhooks, whsec_ and base64)"),
    secret("PUBLISH_AUTHORIZATION", "Authorization header sent with reports"),
    open("INTAKE_ADDR", "address that takes webhooks of stores, as in 0.0.0.0:8082 (default off)"),
    secret("INTAKE_TOKEN", "token that senders must present; several, separated by blanks"),
    open("INTAKE_TLS_CERT_FILE", "PEM certificate chain of the intake (default plain http)"),
    open("INTAKE_TLS_KEY_FILE", "PEM private key of that certificate"),
    open("CANARY_EVERY", "interval of the source canary (s, m, h), 10s to 24h; off without it"),
    open("CANARY_BUCKETS", "buckets of the source canary, separated by commas"),
    open("CANARY_DEADLINE", "time for a canary to come back (default 1m, or half of CANARY_EVERY)"),
    plain("REPORT_CANARY", "false", "report canaries too"),
    secret("RECEIPT_KEY", "signs receipts: an Ed25519 private key in PEM (receipt-key new)"),
    secret(
        "RECEIPT_TRUSTED_KEYS",
        "further public keys that verify them, PEM, one after the other",
    ),
    open("RECEIPT_MAX_AGE", "age from which a receipt is stale (s, m, h, d; default the database)"),
    open("SWEEP_EVERY", "interval of the sweeps over SWEEP_BUCKETS (s, m, h, d); off without it"),
    open("SWEEP_BUCKETS", "buckets that are swept, separated by commas"),
    plain(
        "SWEEP_SELECT",
        "missing",
        "what they scan: missing (receipts), all, or an age as in 30d",
    ),
    plain("SWEEP_CONCURRENCY", "32", "objects that a sweep, or audit, looks at at once, 1 to 256"),
    plain("RETRY_DELAYS", "10s,1m,10m", "waits between attempts (s, m, h), the last one repeats"),
    plain("RETRY_LIMIT", "8", "retries before a message is parked, 0 to 1000"),
    open("TLS_CA_FILE", "PEM file of further certificate authorities, for every connection"),
    open("HEALTH_ADDR", "address of /livez, /readyz, /metrics (default [::]:8080, IPv4 too)"),
    plain(
        "STATUS_ADDR",
        "127.0.0.1:8081",
        "address of the status page, which names objects; empty: none",
    ),
    plain("SHUTDOWN_GRACE", "30", "time for running objects after SIGTERM, seconds, 0 to 3600"),
    open(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "collector that traces are sent to by OTLP over HTTP, as in http://otel:4318; off without it",
    ),
    secret("OTEL_EXPORTER_OTLP_HEADERS", "headers sent with them, as in name=value,name=value"),
    plain(
        "OTEL_TRACES_SAMPLER",
        "parentbased_always_on",
        "which: always_on, always_off, traceidratio, or one of them after parentbased_",
    ),
    open("OTEL_TRACES_SAMPLER_ARG", "share of all traces that a traceidratio sends, 0 to 1"),
    plain("OTEL_SERVICE_NAME", "bucket-av-scanner", "name of the service in traces"),
    plain("LOG_LEVEL", "info", "error, warn, info, debug or trace"),
    plain("LOG_FORMAT", "text", "text or json"),
    open("LOG_FILE", "file that log lines are appended to as well"),
];

/// Keys of the original script's YAML file, and their names here.
pub(super) const ORIGINAL_KEYS: &[(&str, &str)] = &[
    ("delete", "delete_file"),
    ("mq_queue_name", "rabbitmq_queue_name"),
    ("mq_topic", "rabbitmq_topic"),
    ("mq_endpoint", "rabbitmq_endpoint"),
    ("mq_port", "rabbitmq_port"),
    ("mq_user_name", "rabbitmq_regular_user_name"),
    ("mq_user_password", "rabbitmq_regular_user_pass"),
    ("minio_endpoint", "minio_server_url"),
    ("publish_endpoint", "publish_url"),
];
