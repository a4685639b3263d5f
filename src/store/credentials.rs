//! The keys that requests to the store are signed with. When the store refuses keys that come from
//! files, the files are read again and the request is repeated with the new keys.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_credential_types::provider::future;
use aws_sdk_s3::config::retry::ClassifyRetry;
use aws_sdk_s3::config::{Credentials, ProvideCredentials};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::RetryAction;
use aws_smithy_types::retry::ErrorKind;
use secrecy::ExposeSecret;

use super::transport::ATTEMPT_TIMEOUT;
use crate::config::Secret;

/// Access key and secret key. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    access: Secret,
    secret: Secret,
    /// When new keys were last found in the files.
    replaced: Arc<Mutex<Option<Instant>>>,
}

impl Keys {
    pub(super) fn new(access: Secret, secret: Secret) -> Self {
        Self { access, secret, replaced: Arc::default() }
    }

    /// Reads the files again. Whether the request that was just refused may have been sent with
    /// other keys than the ones that are held now.
    fn replaced(&self) -> bool {
        let access = self.access.held();
        let secret = self.secret.held();
        // Both files are read, because one key may be replaced without the other.
        let new = [self.access.replaced_after(&access), self.secret.replaced_after(&secret)];
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        if new.contains(&true) {
            *replaced = Some(Instant::now());
        }
        // Requests sent with the old keys are answered within this time.
        replaced.is_some_and(|at| at.elapsed() < ATTEMPT_TIMEOUT)
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let access = self.access.held();
        let secret = self.secret.held();
        future::ProvideCredentials::ready(Ok(Credentials::new(
            access.expose_secret(),
            secret.expose_secret(),
            None,
            None,
            "settings",
        )))
    }
}

impl ClassifyRetry for Keys {
    /// Decides by the status alone: an answer to a HEAD has no body to name a code, and reading two
    /// small files for each denied object costs little.
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let status = context.response().map(|response| response.status().as_u16());
        if matches!(status, Some(400 | 401 | 403)) && self.replaced() {
            return RetryAction::retryable_error(ErrorKind::ClientError);
        }
        RetryAction::NoActionIndicated
    }

    fn name(&self) -> &'static str {
        "replaced keys"
    }
}
