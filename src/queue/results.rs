//! Publishes reports to the results exchange, where other systems may bind queues.
//!
//! Best effort, on a channel of its own: a foreign queue that refuses or never confirms must block
//! neither the work nor the session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::channels::{PERSISTENT, confirming};

/// To publish one report, and again to have it confirmed. The broker confirms once every bound
/// queue has the message.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports that may wait to be published; more are dropped.
const MAX_WAITING: usize = 1024;
/// Reports that may wait for a confirm; then all are given up, and their channel is closed.
const MAX_UNCONFIRMED: usize = 1024;
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// One report to publish.
pub(super) struct Announcement {
    /// The routing key.
    pub(super) status: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) json: Vec<u8>,
}

/// Sends reports to the task that publishes them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Results {
    waiting: mpsc::Sender<Announcement>,
    trouble: Arc<Trouble>,
}

/// Counts reports that were not confirmed, and warns at most once per [`WARN_INTERVAL`].
#[derive(Debug)]
struct Trouble {
    exchange: ShortString,
    unconfirmed: Counter,
    warned: Mutex<Option<Instant>>,
}

/// The task that publishes.
struct Forward {
    connection: Arc<Connection>,
    /// `None` after a fault: the next report opens a new one.
    channel: Option<Channel>,
    blocked: watch::Receiver<bool>,
    trouble: Arc<Trouble>,
    closing: CancellationToken,
}

impl Trouble {
    fn count(&self, problem: &str) {
        self.unconfirmed.inc();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL) {
            *warned = Some(Instant::now());
            tracing::warn!(
                exchange = self.exchange.as_str(),
                problem,
                "not every queue bound to the results exchange accepts reports: look for one that \
                 is full (x-overflow=reject-publish) or has lost its quorum; nothing else waits \
                 for it"
            );
        }
    }
}

impl Results {
    /// Starts the task, which publishes on `connection`. It ends when the session is `lost`, or
    /// after `closing`, once everything is published and answered.
    pub(super) fn start(
        connection: Arc<Connection>,
        exchange: ShortString,
        unconfirmed: Counter,
        blocked: watch::Receiver<bool>,
        lost: CancellationToken,
        closing: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (waiting, reports) = mpsc::channel(MAX_WAITING);
        let trouble = Arc::new(Trouble { exchange, unconfirmed, warned: Mutex::default() });
        let forward =
            Forward { connection, channel: None, blocked, trouble: Arc::clone(&trouble), closing };
        let task = tokio::spawn(async move {
            tokio::select! {
                () = forward.run(reports) => {}
                () = lost.cancelled() => {}
            }
        });
        (Self { waiting, trouble }, task)
    }

    /// Hands a report to the task without waiting. When too many wait, the report is dropped.
    pub(super) fn announce(&self, report: Announcement) {
        if self.waiting.try_send(report).is_err() {
            self.trouble.count("too many reports are waiting");
        }
    }
}

impl Forward {
    async fn run(mut self, mut reports: mpsc::Receiver<Announcement>) {
        let mut confirms = FuturesUnordered::new();
        let closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                Some(result) = confirms.next(), if !confirms.is_empty() => self.check(result),
                () = closing.cancelled(), if !reports.is_closed() => reports.close(),
                report = reports.recv() => {
                    let Some(report) = report else { break };
                    match tokio::time::timeout(PUBLISH_TIMEOUT, self.publish(report)).await {
                        Ok(Ok(confirm)) => confirms.push(confirmed(confirm)),
                        Ok(Err(error)) => self.give_up_channel(&crate::failure::causes(&error)),
                        Err(_) => self.give_up_channel("not sent in time"),
                    }
                    if confirms.len() >= MAX_UNCONFIRMED {
                        confirms.clear();
                        self.give_up_channel("not confirmed in time");
                    }
                }
            }
        }
        while let Some(result) = confirms.next().await {
            self.check(result);
        }
    }

    fn check(&self, result: Result<(), &'static str>) {
        if let Err(problem) = result {
            self.trouble.count(problem);
        }
    }

    fn give_up_channel(&mut self, problem: &str) {
        self.channel = None;
        self.trouble.count(problem);
    }

    /// Publishes one report; the confirm is awaited elsewhere.
    async fn publish(&mut self, report: Announcement) -> lapin::Result<lapin::PublisherConfirm> {
        // A blocked broker reads nothing. An error means that the session ended.
        drop(self.blocked.wait_for(|blocked| !blocked).await);
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => confirming(&self.connection).await?,
        };
        let channel = self.channel.insert(channel);
        let (exchange, properties) =
            (self.trouble.exchange.clone(), report.properties.with_delivery_mode(PERSISTENT));
        // Not mandatory: no queue has to be bound.
        let options = BasicPublishOptions::default();
        channel.basic_publish(exchange, report.status, options, &report.json, properties).await
    }
}

/// Waits until the broker has answered one publish.
async fn confirmed(confirm: lapin::PublisherConfirm) -> Result<(), &'static str> {
    match tokio::time::timeout(PUBLISH_TIMEOUT, confirm).await {
        Ok(Ok(Confirmation::Ack(_))) => Ok(()),
        Ok(Ok(_)) => Err("refused by the broker"),
        Ok(Err(_)) => Err("the channel was closed"),
        Err(_) => Err("not confirmed in time"),
    }
}
