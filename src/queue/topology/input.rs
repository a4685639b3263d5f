//! The store's side: the exchange that it publishes to, and the queue of its notifications.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};

use super::Topology;
use crate::config::{BrokerSettings, ExchangeType};
use crate::failure::causes;
use crate::queue::declare::{bind, exchange_exists, exists, forbidden, own_exchange, own_queue};
use crate::queue::error::{OpenError, soft};

/// What the store publishes to, and the binding of the input queue.
#[derive(Debug, Clone)]
pub(super) struct Input {
    exchange: String,
    kind: ExchangeKind,
    routing_key: String,
}

impl Input {
    pub(super) fn new(settings: &BrokerSettings) -> Self {
        let kind = match settings.exchange_type {
            ExchangeType::Topic => ExchangeKind::Topic,
            ExchangeType::Direct => ExchangeKind::Direct,
            ExchangeType::Fanout => ExchangeKind::Fanout,
        };
        let (exchange, routing_key) = (settings.exchange.clone(), settings.routing_key.clone());
        Self { exchange, kind, routing_key }
    }
}

impl Topology {
    /// Says in one line whether the input exchange and queue exist. Declares nothing.
    ///
    /// # Errors
    /// When the broker fails or refuses the question.
    pub(in crate::queue) async fn inspect(
        &self,
        connection: &Connection,
    ) -> Result<String, OpenError> {
        let (queue, exchange) = (&self.notifications.queue, &self.input.exchange);
        let state = |exists: bool| if exists { "exists" } else { "will be created" };
        let exchange_state =
            state(exchange_exists(connection, exchange, ExchangeKind::Topic).await?);
        let queue_state = state(exists(connection, queue).await?);
        Ok(format!("exchange {exchange} {exchange_state}, queue {queue} {queue_state}"))
    }

    /// Declares the input exchange and binds the input queue again, if that is gone; also the
    /// exchange of results.
    ///
    /// # Errors
    /// When the broker fails or refuses.
    pub(in crate::queue) async fn bind_input_again(
        &self,
        connection: &Connection,
    ) -> Result<(), OpenError> {
        let (exchange, queue) = (&self.input.exchange, &self.notifications.queue);
        if self.declare_input_exchange(connection).await? {
            tracing::error!(exchange, "was gone; notifications published meanwhile may be lost");
        }
        own_exchange(connection, &self.results, ExchangeKind::Topic).await?;
        bind(connection, queue, exchange, &self.input.routing_key).await
    }

    /// Declares the input exchange where it is missing. Returns whether it was.
    pub(super) async fn declare_input_exchange(
        &self,
        connection: &Connection,
    ) -> Result<bool, OpenError> {
        let Input { exchange, kind, .. } = &self.input;
        let missing = || format!("exchange {exchange}: create it, durable");
        match exchange_exists(connection, exchange, kind.clone()).await {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(error) if soft(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => {
                return Err(OpenError::Forbidden(missing()));
            }
            Err(error) => return Err(error.into()),
        }
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        let name = exchange.as_str().into();
        let declared = channel.exchange_declare(name, kind.clone(), durable, FieldTable::default());
        forbidden(declared.await, missing).map(|()| true)
    }

    /// Declares the input queue where it is missing, and binds it to the input exchange.
    pub(super) async fn declare_input_queue(
        &self,
        connection: &Connection,
    ) -> Result<(), OpenError> {
        let queue = &self.notifications.queue;
        if exists(connection, queue).await? {
            self.warn_of_other_arguments(connection, queue).await?;
        } else {
            own_queue(connection, queue, self.arguments()).await?;
        }
        match bind(connection, queue, &self.input.exchange, &self.input.routing_key).await {
            Err(OpenError::Forbidden(_)) => {
                tracing::warn!(
                    queue,
                    exchange = self.input.exchange,
                    routing_key = self.input.routing_key,
                    "not allowed to bind the queue: make sure that this binding exists"
                );
                Ok(())
            }
            bound => bound,
        }
    }

    /// Warns when the existing input queue has other arguments than ours, since those may lose
    /// messages. An active declare changes nothing then: the broker refuses it and names the first
    /// argument that differs.
    async fn warn_of_other_arguments(
        &self,
        connection: &Connection,
        queue: &str,
    ) -> Result<(), OpenError> {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = connection.create_channel().await?;
        match channel.queue_declare(queue.into(), options, self.arguments()).await {
            Err(error) if soft(&error) == Some(&AMQPSoftError::PRECONDITIONFAILED) => {
                tracing::warn!(
                    queue,
                    answer = causes(&error),
                    "used as it is, with other arguments than this daemon would set. A length \
                     limit or TTL drops notifications; so does a quorum queue of RabbitMQ 4 without \
                     x-delivery-limit after 20 returns; a classic queue does not count returns"
                );
                Ok(())
            }
            // Without the permission to declare, the arguments cannot be compared.
            Err(error) if soft(&error) == Some(&AMQPSoftError::ACCESSREFUSED) => Ok(()),
            declared => declared.map(drop).map_err(OpenError::from),
        }
    }
}
