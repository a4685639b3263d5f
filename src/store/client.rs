//! How the S3 client is set up.

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder as HttpBuilder, Connector};
use secrecy::ExposeSecret;

use crate::config::StoreSettings;

/// Pinned: a newer one may change defaults that the guarantees rest on.
fn behavior() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

pub(super) async fn build(settings: &StoreSettings, ca: Option<&[u8]>) -> Result<Client, String> {
    let http = http_client(ca)?;
    let region = Region::new(settings.region.clone());
    let builder = match &settings.keys {
        Some((access, secret)) => {
            Builder::new().behavior_version(behavior()).credentials_provider(Credentials::new(
                access.expose_secret(),
                secret.expose_secret(),
                None,
                None,
                "settings",
            ))
        }
        None => {
            let chain = aws_config::defaults(behavior()).region(region.clone()).load().await;
            Builder::from(&chain)
        }
    };
    let config = builder
        .region(region)
        .endpoint_url(settings.url.as_str())
        // Buckets as host names need DNS that self-hosted stores rarely have.
        .force_path_style(true)
        .http_client(http)
        // Stores of MinIO's lineage refuse the newer checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        // The defaults wait for ever for the headers of an answer. None of these covers a body;
        // that is watched where it is read.
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .read_timeout(Duration::from_secs(15))
                .operation_attempt_timeout(Duration::from_secs(25))
                .operation_timeout(Duration::from_secs(75))
                .build(),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().grace_period(Duration::from_secs(30)).build(),
        )
        .build();
    Ok(Client::from_conf(config))
}

/// An HTTP client that trusts `ca` besides the platform's authorities and ignores the proxy
/// variables, which are meant for the webhook.
fn http_client(ca: Option<&[u8]>) -> Result<SharedHttpClient, String> {
    let mut trust = TrustStore::default();
    if let Some(pem) = ca {
        trust.add_pem_certificate(pem);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| format!("the TLS settings cannot be used: {error}"))?;
    Ok(HttpBuilder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls.clone())
            .proxy_config(ProxyConfig::disabled());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        if let Some(sleep) = components.and_then(RuntimeComponents::sleep_impl) {
            connector = connector.sleep_impl(sleep);
        }
        connector.build()
    }))
}
