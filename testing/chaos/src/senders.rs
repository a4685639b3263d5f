//! Senders of webhooks that keep an event until it is answered 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peers::error::{Context, Result};
use tokio_util::task::TaskTracker;

/// Between two tries of one event. Senders that hammer would measure the machine, not the daemon.
const PAUSE: Duration = Duration::from_millis(1500);
/// A sender that is not answered by then tries again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sending {
    /// Senders that each send every event.
    pub(super) senders: usize,
    /// How often each sends it.
    pub(super) times: usize,
}

/// Sends each event in a task of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Senders {
    sending: Sending,
    /// The intakes of all replicas; a try that fails is followed by one at the next.
    intakes: Arc<[String]>,
    token: Arc<str>,
    client: reqwest::Client,
    under_way: TaskTracker,
    failed: Arc<AtomicUsize>,
}

impl Senders {
    pub(super) fn new(sending: Sending, intakes: Vec<String>, token: &str) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build();
        Ok(Self {
            sending,
            intakes: intakes.into(),
            token: token.into(),
            client: client.context("client")?,
            under_way: TaskTracker::new(),
            failed: Arc::default(),
        })
    }

    /// Sends an event until it is taken, without being waited for.
    pub(super) fn send(&self, event: &str) {
        for number in 0..self.sending.senders * self.sending.times {
            let (sender, event) = (self.clone(), event.to_owned());
            self.under_way.spawn(async move {
                let mut intake = number;
                while !sender.post(&sender.intakes[intake % sender.intakes.len()], &event).await {
                    sender.failed.fetch_add(1, Ordering::Relaxed);
                    intake += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    async fn post(&self, intake: &str, event: &str) -> bool {
        let request = self.client.post(format!("{intake}/events")).bearer_auth(&self.token);
        let answer = request.body(event.to_owned()).send().await;
        answer.is_ok_and(|answer| answer.status().as_u16() == 200)
    }

    /// Waits until every event was taken.
    pub(super) async fn delivered(&self) {
        self.under_way.close();
        self.under_way.wait().await;
        self.under_way.reopen();
    }

    /// Tries that were not answered 200.
    pub(super) fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }
}
