//! Publishes reports to the results exchange, where others may bind queues.
//!
//! Best effort, on a channel of its own: a queue that refuses or never confirms is somebody else's,
//! and must hold up neither the work nor the session.

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

use super::channels::confirming;
use super::publisher::PERSISTENT;

/// A broker confirms once every queue has the message; one that has not by then probably will not.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports that wait to be published.
const MAX_WAITING: usize = 1024;
/// Unconfirmed reports, after which they are forgotten together with their channel.
const MAX_UNCONFIRMED: usize = 1024;
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// One report on its way.
pub(super) struct Announcement {
    pub(super) status: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) json: Vec<u8>,
}

/// The way to the results exchange. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Results {
    waiting: mpsc::Sender<Announcement>,
    trouble: Arc<Trouble>,
}

/// Counts what was not taken, and warns of it now and then.
#[derive(Debug)]
struct Trouble {
    exchange: ShortString,
    unconfirmed: Counter,
    warned: Mutex<Option<Instant>>,
}

impl Trouble {
    fn note(&self, problem: &str) {
        self.unconfirmed.inc();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL) {
            *warned = Some(Instant::now());
            tracing::warn!(
                exchange = self.exchange.as_str(),
                problem,
                "not every queue that others bound there takes reports: look for one that is full \
                 (x-overflow=reject-publish) or has lost its majority; nothing else waits for it"
            );
        }
    }
}

impl Results {
    /// Starts to publish on `connection`. Ends when the session is `lost`, or, `closing`, when
    /// everything is published.
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

    /// Hands a report over; never waits.
    pub(super) fn announce(&self, report: Announcement) {
        if self.waiting.try_send(report).is_err() {
            self.trouble.note("too many reports wait for it");
        }
    }
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

impl Forward {
    async fn run(mut self, mut reports: mpsc::Receiver<Announcement>) {
        let mut confirms = FuturesUnordered::new();
        let closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                Some(confirmed) = confirms.next(), if !confirms.is_empty() => {
                    if let Err(problem) = confirmed {
                        self.trouble.note(problem);
                    }
                }
                () = closing.cancelled(), if !reports.is_closed() => reports.close(),
                report = reports.recv() => {
                    let Some(report) = report else { break };
                    match tokio::time::timeout(CONFIRM_TIMEOUT, self.publish(report)).await {
                        Ok(Ok(confirm)) => confirms.push(async move {
                            match tokio::time::timeout(CONFIRM_TIMEOUT, confirm).await {
                                Ok(Ok(Confirmation::Ack(_))) => Ok(()),
                                Ok(Ok(_)) => Err("refused by the broker"),
                                Ok(Err(_)) => Err("the channel was closed"),
                                Err(_) => Err("not confirmed in time"),
                            }
                        }),
                        Ok(Err(error)) => {
                            self.channel = None;
                            self.trouble.note(&crate::failure::causes(&error));
                        }
                        Err(_) => {
                            self.channel = None;
                            self.trouble.note("not sent in time");
                        }
                    }
                    if confirms.len() >= MAX_UNCONFIRMED {
                        confirms.clear();
                        self.channel = None;
                        self.trouble.note("not confirmed in time");
                    }
                }
            }
        }
        while let Some(confirmed) = confirms.next().await {
            if let Err(problem) = confirmed {
                self.trouble.note(problem);
            }
        }
    }

    /// Publishes one report; its confirm comes later.
    async fn publish(&mut self, report: Announcement) -> lapin::Result<lapin::PublisherConfirm> {
        // Nothing can be sent meanwhile. An error means that the session is over.
        drop(self.blocked.wait_for(|blocked| !blocked).await);
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => confirming(&self.connection).await?,
        };
        let channel = self.channel.insert(channel);
        let (exchange, properties) =
            (self.trouble.exchange.clone(), report.properties.with_delivery_mode(PERSISTENT));
        // Nobody has to listen, so not mandatory.
        let options = BasicPublishOptions::default();
        channel.basic_publish(exchange, report.status, options, &report.json, properties).await
    }
}
