//! What an operator can check or set when something is wrong, each text in one place.
//!
//! The constants complete a sentence: "check …" for settings of the daemon, "set …" for clamd's.

/// Settings that say where the broker is.
pub(crate) const BROKER_ADDRESS: &str = "RABBITMQ_ENDPOINT, RABBITMQ_PORT and RABBITMQ_TLS";
/// Settings of the broker's login.
pub(crate) const BROKER_LOGIN: &str =
    "RABBITMQ_REGULAR_USER_NAME, RABBITMQ_REGULAR_USER_PASS and RABBITMQ_VHOST";
/// Settings that say where the store is.
pub(crate) const STORE_ADDRESS: &str = "MINIO_SERVER_URL and TLS_CA_FILE";
/// Settings of the store's login. Requests are signed with the time.
pub(crate) const STORE_LOGIN: &str = "MINIO_ACCESS_KEY_ID, MINIO_SECRET_ACCESS_KEY and the clock";
/// Settings that say where the engine is.
pub(crate) const ENGINE_ADDRESS: &str = "SCANNER, CLAMD_ENDPOINT and CLAMD_PORT";
/// All settings of the store.
pub(crate) const STORE: &str = "MINIO_SERVER_URL, TLS_CA_FILE and the credentials";
/// Settings that say where the webhook is.
pub(crate) const WEBHOOK_ADDRESS: &str = "PUBLISH_URL and TLS_CA_FILE";
/// All settings of the webhook.
pub(crate) const WEBHOOK: &str =
    "PUBLISH_URL, PUBLISH_AUTHORIZATION, PUBLISH_SECRET and TLS_CA_FILE";
/// What temp files and connections need.
pub(crate) const HOST_RESOURCES: &str = "TMPDIR, SPOOL_SIZE and the limit of open files";
/// What makes clamd report encrypted archives and exceeded limits.
pub(crate) const ENGINE_ALERTS: &str = "AlertEncrypted and AlertExceedsMax to yes in clamd.conf";

/// The line for a store that refuses the login; `detail` is its answer.
pub(crate) fn store_login_refused(detail: &str) -> String {
    format!("the store refuses the login ({detail}): check {STORE_LOGIN}")
}
