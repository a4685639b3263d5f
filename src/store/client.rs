//! Sets up the S3 client.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};

use super::credentials::Keys;
use super::key::Unmark;
use super::transport::{ATTEMPT_TIMEOUT, Transport};
use crate::config::StoreSettings;
use crate::tls::Trust;

/// Longest duration of all tries of a request together, without the body of the answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(75);
/// Tries of a request by the SDK.
const MAX_ATTEMPTS: u32 = 3;
/// How long a stream may be slow before the SDK ends it.
const STALL_GRACE: Duration = Duration::from_secs(30);

/// Pinned, because a newer version may change defaults that the guarantees rest on.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// Builds the client; nothing is sent yet.
///
/// # Errors
/// When the TLS settings cannot be used.
pub(super) async fn build(settings: &StoreSettings, trust: &Trust) -> Result<Client, String> {
    let http = SharedHttpClient::new(Transport::new(trust, settings.proxy_variable)?);
    let region = Region::new(settings.region.clone());
    let builder = match &settings.keys {
        Some((access, secret)) => {
            let keys = Keys::new(access.clone(), secret.clone());
            Builder::new()
                .behavior_version(behavior())
                .credentials_provider(keys.clone())
                // The keys may have been replaced by the next request.
                .identity_cache(IdentityCache::no_cache())
                .retry_classifier(keys)
        }
        None => {
            let chain = aws_config::defaults(behavior()).region(region.clone());
            Builder::from(&chain.http_client(http.clone()).load().await)
        }
    };
    let config = builder
        .region(region)
        .endpoint_url(settings.url.as_str())
        // Buckets as host names need DNS entries that self-hosted stores rarely have.
        .force_path_style(true)
        // In a self-hosted store a bucket named `…--x-s3` is an ordinary one.
        .disable_s3_express_session_auth(true)
        .http_client(http)
        .interceptor(Unmark)
        // Stores of MinIO's lineage refuse the newer checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        // None of these covers a body; `download` has its own timeout.
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(OPERATION_TIMEOUT)
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build(),
        )
        .build();
    Ok(Client::from_conf(config))
}
