//! A pair of connections to the broker, one to consume and one to publish, that lives until the
//! first fault. A broker under memory or disk alarm blocks connections that publish; on one
//! connection the acknowledgements would be stuck behind.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties, Event};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::error::OpenError;
use super::intake::Intake;
use super::publisher::Publisher;
use super::results::Results;
use super::topology::{Lane, Topology};
use crate::config::BrokerSettings;
use crate::metrics::Metrics;
use crate::tls::Trust;

/// The client library has no timer of its own for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DECLARE_TIMEOUT: Duration = Duration::from_mins(1);
const KEEP_BOUND: Duration = Duration::from_secs(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// For the last reports to others.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(1);
/// Seconds. A lost peer is noticed after twice this.
const HEARTBEAT: u16 = 15;
/// Bytes of the longest frame on the publishing connection. The client library keeps 64 times as much
/// for a connection. Headers have to fit in a frame: ours do, and returned messages are ours. What is
/// consumed may have any that the broker takes, so that connection is left at the broker's own limit.
const SMALL_FRAMES: u32 = 32 * 1024;

/// Both connections, and the topology declared on them.
pub(crate) struct Session {
    consuming: Connection,
    publishing: Arc<Connection>,
    publisher: Publisher,
    /// Publishes to the results exchange.
    results: JoinHandle<()>,
    closing: CancellationToken,
    topology: Topology,
    lost: CancellationToken,
}

impl Session {
    /// Connects and declares the topology.
    ///
    /// # Errors
    /// [`OpenError`] says which need an operator and which only time.
    pub(crate) async fn open(
        settings: &BrokerSettings,
        trust: &Trust,
        topology: &Topology,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let consuming = connect(settings, trust, "consuming", None).await?;
        let publishing = connect(settings, trust, "publishing", Some(SMALL_FRAMES)).await?;
        let publishing = Arc::new(publishing);
        let channels = Arc::new(Channels::new(Arc::clone(&publishing)));
        let declared = async {
            topology.declare(&consuming).await?;
            channels.take().await?.give_back();
            Ok::<_, OpenError>(())
        };
        tokio::time::timeout(DECLARE_TIMEOUT, declared)
            .await
            .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))??;
        let lost = CancellationToken::new();
        let (blocked, is_blocked) = watch::channel(false);
        listen(&publishing, lost.clone(), Some(blocked));
        listen(&consuming, lost.clone(), None);
        let closing = CancellationToken::new();
        let (to_others, results) = Results::start(
            Arc::clone(&publishing),
            topology.results.as_str().into(),
            metrics.results_unconfirmed.clone(),
            is_blocked.clone(),
            lost.clone(),
            closing.clone(),
        );
        let publisher = Publisher::new(channels, to_others, topology, lost.clone(), is_blocked);
        let topology = topology.clone();
        Ok(Self { consuming, publishing, publisher, results, closing, topology, lost })
    }

    /// Declares the topology again, after a queue of it was deleted.
    pub(crate) async fn declare_again(&self) -> Result<(), OpenError> {
        tokio::time::timeout(DECLARE_TIMEOUT, self.topology.declare(&self.consuming))
            .await
            .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))?
    }

    /// Makes sure, now and then, that what the store announces finds its way into the queue: where an
    /// exchange or its binding was removed, messages are gone and nobody is told.
    pub(crate) async fn keep_bound(&self) -> Infallible {
        loop {
            tokio::time::sleep(KEEP_BOUND).await;
            let bound = self.topology.bind_input_again(&self.consuming);
            match tokio::time::timeout(DECLARE_TIMEOUT, bound).await {
                Ok(Ok(())) => {}
                // Said at the start, or a fault that the lanes notice too.
                Ok(Err(error)) => tracing::debug!(%error, "the binding cannot be looked after"),
                Err(_) => tracing::debug!("no answer to a declaration"),
            }
        }
    }

    /// Starts to consume `lane` with at most `prefetch` unsettled deliveries.
    pub(crate) async fn intake(&self, lane: &Lane, prefetch: u16) -> Result<Intake, OpenError> {
        let opened = Intake::open(&self.consuming, lane, prefetch);
        match tokio::time::timeout(CONNECT_TIMEOUT, opened).await {
            Ok(intake) => Ok(intake?),
            Err(_) => Err(OpenError::Unreachable("no answer to basic.consume".to_owned())),
        }
    }

    /// A channel of its own on the consuming connection.
    pub(super) async fn channel(&self) -> lapin::Result<lapin::Channel> {
        self.consuming.create_channel().await
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Cancelled when either connection is lost or a publish was not confirmed.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Closes both connections; a dead one is simply dropped. Takes at most
    /// [`CLOSE_TIMEOUT`] and [`RESULTS_TIMEOUT`].
    pub(crate) async fn close(self) {
        self.closing.cancel();
        if tokio::time::timeout(RESULTS_TIMEOUT, self.results).await.is_err() {
            tracing::debug!("the last reports are not confirmed by all queues of others");
        }
        let closing = futures_util::future::join_all(
            [&self.consuming, self.publishing.as_ref()]
                .map(|connection| connection.close(200, "bye".into())),
        );
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("the broker does not answer the goodbye");
        }
    }
}

/// Connects, looks what is there, and says so; changes nothing.
pub(crate) async fn look(
    settings: &BrokerSettings,
    trust: &Trust,
    topology: &Topology,
) -> Result<String, OpenError> {
    let connection = connect(settings, trust, "check", None).await?;
    let found = tokio::time::timeout(DECLARE_TIMEOUT, topology.look(&connection))
        .await
        .map_err(|_| OpenError::Unreachable("no answer to a declaration".to_owned()))??;
    drop(tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "bye".into())).await);
    Ok(format!("{}:{} takes the login; {found}", settings.host, settings.port))
}

/// Connects. Where the login is refused and the password's file has another one by now, with that.
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
        query: AMQPQueryString { heartbeat: Some(HEARTBEAT), frame_max, ..Default::default() },
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

/// Each connection's event stream has one listener: an event reaches only one of several.
fn listen(connection: &Connection, lost: CancellationToken, blocked: Option<watch::Sender<bool>>) {
    let set_blocked = move |now| {
        if let Some(blocked) = &blocked {
            blocked.send_replace(now);
        }
    };
    let mut events = Box::pin(connection.events_listener());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = lost.cancelled() => return,
            };
            match event {
                // Of one channel: who uses it is told there.
                Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
                Some(Event::Error(error)) => {
                    tracing::warn!(error = crate::failure::causes(&error), "broker session lost");
                    return lost.cancel();
                }
                Some(Event::ConnectionBlocked(reason)) => {
                    set_blocked(true);
                    tracing::warn!(%reason, "the broker takes no messages (memory or disk alarm)");
                }
                Some(Event::ConnectionUnblocked) => {
                    set_blocked(false);
                    tracing::info!("the broker takes messages again");
                }
                Some(_) => {}
                None => return lost.cancel(),
            }
        }
    });
}
