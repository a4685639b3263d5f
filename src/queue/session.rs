//! A pair of connections to the broker, one to consume and one to publish, that lives until the
//! first fault.
//!
//! A broker under memory or disk alarm stops reading from connections that publish. On a single
//! connection it would not read the acknowledgements either.
//! Source: <https://www.rabbitmq.com/docs/alarms>

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::consumer::Consumer;
use super::declare::{depth, exists};
use super::depths::Counter;
use super::error::OpenError;
use super::inlet::Inlet;
use super::journal::{Journal, Reader};
use super::publisher::Publisher;
use super::puller::Puller;
use super::results::Results;
use super::topology::{Topology, WorkQueue, dead};
use super::{ANSWER_TIMEOUT, CLOSE_TIMEOUT};
use crate::config::BrokerSettings;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::tls::Trust;

/// To connect and log in. The client library has no timeout of its own for this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// To declare or inspect the whole topology.
const DECLARE_TIMEOUT: Duration = Duration::from_mins(1);
/// Between two repairs of the input binding.
const REBIND_INTERVAL: Duration = Duration::from_secs(20);
/// Between two counts of the messages that wait.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// To publish the last reports to the results exchange when the session closes.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(1);
/// A lost peer is noticed after twice this. Source: <https://www.rabbitmq.com/docs/heartbeats>
const HEARTBEAT_SECONDS: u16 = 15;
/// Longest frame on the publishing connection, in bytes; the client library allocates 64 times as
/// much. The headers of a message must fit into one frame: ours do, and only our own messages are
/// returned there. Consumed messages may have larger headers, so the consuming connection keeps the
/// broker's limit.
const PUBLISHING_FRAME_MAX: u32 = 32 * 1024;

/// Publishes of the workers in flight at once.
const PUBLISHING_CHANNELS: usize = 32;

/// Both connections, with the topology declared.
pub(crate) struct Session {
    consuming: Connection,
    publishing: Arc<Connection>,
    publisher: Publisher,
    inlet: Inlet,
    /// The task that publishes to the results exchange.
    results: JoinHandle<()>,
    closing: CancellationToken,
    topology: Topology,
    lost: CancellationToken,
}

impl Session {
    /// Connects and declares the topology.
    ///
    /// # Errors
    /// [`OpenError`] tells those that an operator must fix from those that may pass.
    pub(crate) async fn open(
        settings: &BrokerSettings,
        trust: &Trust,
        topology: &Topology,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let consuming = connect(settings, trust, "consuming", None).await?;
        let publishing = connect(settings, trust, "publishing", Some(PUBLISHING_FRAME_MAX)).await?;
        let publishing = Arc::new(publishing);
        let channels = Arc::new(Channels::new(Arc::clone(&publishing), PUBLISHING_CHANNELS));
        let declared = async {
            topology.declare(&consuming).await?;
            channels.take().await?.give_back();
            Ok::<_, OpenError>(())
        };
        tokio::time::timeout(DECLARE_TIMEOUT, declared)
            .await
            .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))??;
        let (lost, closing) = (CancellationToken::new(), CancellationToken::new());
        let (blocked, is_blocked) = watch::channel(false);
        listen(&publishing, lost.clone(), closing.clone(), Some(blocked));
        listen(&consuming, lost.clone(), closing.clone(), None);
        let (to_others, results) = Results::start(
            Arc::clone(&publishing),
            topology.results.as_str().into(),
            metrics.results_unconfirmed.clone(),
            is_blocked.clone(),
            lost.clone(),
            closing.clone(),
        );
        let inlet = Inlet::new(Arc::clone(&publishing), topology, lost.clone(), is_blocked.clone());
        let publisher = Publisher::new(channels, to_others, topology, lost.clone(), is_blocked);
        let topology = topology.clone();
        Ok(Self { consuming, publishing, publisher, inlet, results, closing, topology, lost })
    }

    /// Declares the topology again, after one of its queues was deleted.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn declare_again(&self) -> Result<(), OpenError> {
        tokio::time::timeout(DECLARE_TIMEOUT, self.topology.declare(&self.consuming))
            .await
            .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))?
    }

    /// Restores the input exchange and its binding every [`REBIND_INTERVAL`], for as long as the
    /// future is polled. Without them notifications are dropped, and neither store nor daemon gets
    /// an error.
    pub(crate) async fn keep_bound(&self) -> Infallible {
        loop {
            tokio::time::sleep(REBIND_INTERVAL).await;
            let bound = self.topology.bind_input_again(&self.consuming);
            match tokio::time::timeout(DECLARE_TIMEOUT, bound).await {
                Ok(Ok(())) => {}
                // Reported when the session opened, or a fault that the consumers notice too.
                Ok(Err(error)) => tracing::debug!(%error, "the binding cannot be checked"),
                Err(_) => tracing::debug!("no answer to a declaration"),
            }
        }
    }

    /// Counts the messages that wait every [`COUNT_INTERVAL`], for as long as the future is polled.
    pub(crate) async fn keep_counting(&self, health: &Health) -> Infallible {
        let mut counter = Counter::new(&self.consuming);
        loop {
            let depths = counter.depths(&self.topology);
            let known = match tokio::time::timeout(DECLARE_TIMEOUT, depths).await {
                Ok(Ok(depths)) => depths,
                // A fault that the consumers notice too.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the messages that wait cannot be counted");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            health.set_queues(known);
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    }

    /// Starts to consume `work_queue`, with at most `prefetch` unsettled deliveries.
    ///
    /// # Errors
    /// When the broker fails, refuses, or does not answer within [`ANSWER_TIMEOUT`].
    pub(crate) async fn consumer(
        &self,
        work_queue: &WorkQueue,
        prefetch: u16,
    ) -> Result<Consumer, OpenError> {
        let opened = Consumer::open(&self.consuming, work_queue, prefetch);
        match tokio::time::timeout(ANSWER_TIMEOUT, opened).await {
            Ok(consumer) => Ok(consumer?),
            Err(_) => Err(OpenError::Unreachable("no answer to basic.consume".to_owned())),
        }
    }

    /// Opens a channel to ask for messages of `work_queue`.
    ///
    /// # Errors
    /// When the broker fails or does not answer within [`ANSWER_TIMEOUT`].
    pub(crate) async fn puller(&self, work_queue: &WorkQueue) -> Result<Puller, OpenError> {
        let opened = Puller::open(&self.consuming, work_queue);
        match tokio::time::timeout(ANSWER_TIMEOUT, opened).await {
            Ok(puller) => Ok(puller?),
            Err(_) => Err(OpenError::Unreachable("no answer to channel.open".to_owned())),
        }
    }

    /// Whether there is a journal already.
    ///
    /// # Errors
    /// When the broker fails, refuses, or does not answer.
    pub(crate) async fn has_journal(&self) -> Result<bool, OpenError> {
        tokio::time::timeout(ANSWER_TIMEOUT, exists(&self.consuming, &self.topology.journal))
            .await
            .map_err(|_| OpenError::Unreachable("no answer about the journal".to_owned()))?
    }

    /// Opens the journal, with a reader that stands before its first entry.
    ///
    /// # Errors
    /// When the broker fails, refuses, or does not answer.
    pub(crate) async fn journal(&self) -> Result<(Arc<Journal>, Reader), OpenError> {
        let opened = async {
            self.topology.declare_journal(&self.consuming).await?;
            let reader = Reader::open(&self.consuming, &self.topology.journal).await?;
            let journal = Journal::new(Arc::clone(&self.publishing), &self.topology);
            Ok((Arc::new(journal), reader))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, opened)
            .await
            .map_err(|_| OpenError::Unreachable("no answer about the journal".to_owned()))?
    }

    /// Opens a channel on the consuming connection.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        self.consuming.create_channel().await
    }

    /// Publishes and settles on this session.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The way into the notifications queue on this session.
    pub(crate) fn inlet(&self) -> &Inlet {
        &self.inlet
    }

    /// Cancelled when a connection is lost or a publish is not confirmed.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Closes both connections, or drops those that do not answer. Takes at most
    /// [`RESULTS_TIMEOUT`] plus [`CLOSE_TIMEOUT`].
    pub(crate) async fn close(self) {
        self.closing.cancel();
        if tokio::time::timeout(RESULTS_TIMEOUT, self.results).await.is_err() {
            tracing::debug!(
                "not every queue bound to the results exchange confirmed the last reports"
            );
        }
        let closing = futures_util::future::join_all(
            [&self.consuming, self.publishing.as_ref()]
                .map(|connection| connection.close(200, "bye".into())),
        );
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("no answer to connection.close");
        }
    }
}

/// Connects, and says in one line what exists of the topology. Changes nothing.
///
/// # Errors
/// As [`Session::open`].
pub(crate) async fn inspect(
    settings: &BrokerSettings,
    trust: &Trust,
    topology: &Topology,
) -> Result<String, OpenError> {
    let connection = connect(settings, trust, "check", None).await?;
    let found = tokio::time::timeout(DECLARE_TIMEOUT, topology.inspect(&connection))
        .await
        .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))??;
    drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "bye".into())).await);
    Ok(format!("{}:{} accepts the login; {found}", settings.host, settings.port))
}

/// The number of messages in the dead-letter queue of notifications; `None` if there is no such
/// queue. Changes nothing.
///
/// # Errors
/// As [`Session::open`].
pub(crate) async fn count_parked(
    settings: &BrokerSettings,
    trust: &Trust,
) -> Result<Option<u32>, OpenError> {
    let connection = connect(settings, trust, "audit", None).await?;
    let dead = dead(&settings.queue);
    let counted = tokio::time::timeout(ANSWER_TIMEOUT, depth(&connection, &dead))
        .await
        .map_err(|_| OpenError::Unreachable("no answer to queue.declare".to_owned()))?;
    drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "bye".into())).await);
    counted
}

/// Connects. When the login is refused and the password file has changed, tries its new content
/// once.
async fn connect(
    settings: &BrokerSettings,
    trust: &Trust,
    purpose: &'static str,
    frame_max: Option<u32>,
) -> Result<Connection, OpenError> {
    let password = settings.password.held();
    match log_in(settings, &password, trust, purpose, frame_max).await {
        Err(OpenError::Refused(_)) if settings.password.replaced_after(&password) => {
            log_in(settings, &settings.password.held(), trust, purpose, frame_max).await
        }
        answer => answer,
    }
}

async fn log_in(
    settings: &BrokerSettings,
    password: &SecretString,
    trust: &Trust,
    purpose: &'static str,
    frame_max: Option<u32>,
) -> Result<Connection, OpenError> {
    let uri = AMQPUri {
        scheme: if settings.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: settings.user.clone(),
                password: password.expose_secret().to_owned(),
            },
            host: settings.host.clone(),
            port: settings.port,
        },
        vhost: settings.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(HEARTBEAT_SECONDS),
            frame_max,
            ..Default::default()
        },
    };
    let name = format!("{} ({purpose})", env!("CARGO_PKG_NAME"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let cert_chain = trust.pem().map(str::to_owned);
    let tls = OwnedTLSConfig { identity: None, cert_chain };
    let runtime = lapin::runtime::default_runtime()?;
    let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
    let peer = format!("{}:{}", settings.host, settings.port);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| OpenError::while_connecting(error, &peer)),
        Err(_) => Err(OpenError::Unreachable(format!("no answer from {peer}"))),
    }
}

/// Whether an error concerns one channel and not the connection. The client library also reports
/// when it closes a channel that is closing or closed, as it does with each of ours that is dropped.
fn is_of_a_channel(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error()
        || matches!(error.kind(), ErrorKind::InvalidChannel(_) | ErrorKind::InvalidChannelState(..))
}

/// Cancels `lost` when the connection fails, until it is `closing`, and keeps `blocked` up to date.
/// There is one listener for each connection: of several, only one would get an event.
fn listen(
    connection: &Connection,
    lost: CancellationToken,
    closing: CancellationToken,
    blocked: Option<watch::Sender<bool>>,
) {
    let set_blocked = move |is_blocked| {
        if let Some(blocked) = &blocked {
            blocked.send_replace(is_blocked);
        }
    };
    let mut events = Box::pin(connection.events_listener());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = lost.cancelled() => return,
                () = closing.cancelled() => return,
            };
            match event {
                // Concerns one channel only; its user gets the error.
                Some(Event::Error(error)) if is_of_a_channel(&error) => {}
                Some(Event::Error(error)) => {
                    tracing::warn!(error = crate::failure::causes(&error), "broker session lost");
                    return lost.cancel();
                }
                Some(Event::ConnectionBlocked(reason)) => {
                    set_blocked(true);
                    tracing::warn!(%reason, "the broker accepts no messages (memory or disk alarm)");
                }
                Some(Event::ConnectionUnblocked) => {
                    set_blocked(false);
                    tracing::info!("the broker accepts messages again");
                }
                Some(_) => {}
                None => return lost.cancel(),
            }
        }
    });
}
