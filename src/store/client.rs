//! How the S3 client is set up.

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
use super::transport::Transport;
use crate::config::StoreSettings;
use crate::tls::Trust;

/// For one try of a request, without the answer's body.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);

/// Pinned: a newer one may change defaults that the guarantees rest on.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

pub(super) async fn build(settings: &StoreSettings, trust: &Trust) -> Result<Client, String> {
    let http = SharedHttpClient::new(Transport::new(trust, settings.proxy_variable)?);
    let region = Region::new(settings.region.clone());
    let builder = match &settings.keys {
        Some((access, secret)) => {
            let keys = Keys::new(access.clone(), secret.clone());
            Builder::new()
                .behavior_version(behavior())
                .credentials_provider(keys.clone())
                // They may be others at the next request.
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
        // Buckets as host names need DNS that self-hosted stores rarely have.
        .force_path_style(true)
        // A bucket named `…--x-s3` is one like any other in a self-hosted store.
        .disable_s3_express_session_auth(true)
        .http_client(http)
        .interceptor(Unmark)
        // Stores of MinIO's lineage refuse the newer checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        // None of these covers a body; that is watched where it is read.
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(Duration::from_secs(75))
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(Duration::from_secs(30)).build(),
        )
        .build();
    Ok(Client::from_conf(config))
}
