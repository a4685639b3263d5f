//! Declares, looks up and binds one exchange or queue. A refused method closes its channel (AMQP
//! 0-9-1), so each one gets a channel of its own.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Connection, ExchangeKind};

use super::error::{OpenError, soft};

/// Declares a durable queue. Without the permission to, an existing one is accepted.
///
/// # Errors
/// [`OpenError::Mismatch`] when it exists with other arguments, [`OpenError::Forbidden`] when it is
/// missing and may not be declared.
pub(super) async fn own_queue(
    connection: &Connection,
    name: &str,
    arguments: FieldTable,
) -> Result<(), OpenError> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    match channel.queue_declare(name.into(), options, arguments).await {
        Ok(_) => Ok(()),
        Err(error) => match soft(&error) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => {
                Err(OpenError::Mismatch(format!("queue {name}")))
            }
            Some(AMQPSoftError::ACCESSREFUSED) if exists(connection, name).await? => Ok(()),
            Some(AMQPSoftError::ACCESSREFUSED) => {
                Err(OpenError::Forbidden(format!("queue {name}: create it, durable")))
            }
            _ => Err(error.into()),
        },
    }
}

/// Declares a durable exchange. Without the permission to, an existing one is accepted.
///
/// # Errors
/// As [`own_queue`].
pub(super) async fn own_exchange(
    connection: &Connection,
    name: &str,
    kind: ExchangeKind,
) -> Result<(), OpenError> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    let none = FieldTable::default();
    match channel.exchange_declare(name.into(), kind.clone(), options, none).await {
        Ok(()) => Ok(()),
        Err(error) => match soft(&error) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => {
                Err(OpenError::Mismatch(format!("exchange {name}")))
            }
            Some(AMQPSoftError::ACCESSREFUSED) => {
                match passive_exchange(connection, name, kind).await? {
                    Ok(()) => Ok(()),
                    Err(_) => {
                        Err(OpenError::Forbidden(format!("exchange {name}: create it, durable")))
                    }
                }
            }
            _ => Err(error.into()),
        },
    }
}

/// Whether the exchange exists. `kind` is ignored by the broker.
///
/// # Errors
/// When the broker fails or refuses the question.
pub(super) async fn exchange_exists(
    connection: &Connection,
    name: &str,
    kind: ExchangeKind,
) -> lapin::Result<bool> {
    match passive_exchange(connection, name, kind).await? {
        Ok(()) => Ok(true),
        Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The broker's answer to a passive declare; the outer error is that of the channel.
async fn passive_exchange(
    connection: &Connection,
    name: &str,
    kind: ExchangeKind,
) -> lapin::Result<lapin::Result<()>> {
    let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    Ok(channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await)
}

/// Whether the queue exists.
///
/// # Errors
/// As [`depth`].
pub(super) async fn exists(connection: &Connection, queue: &str) -> Result<bool, OpenError> {
    Ok(depth(connection, queue).await?.is_some())
}

/// The number of messages that are ready in the queue; `None` if it does not exist.
///
/// # Errors
/// [`OpenError::Forbidden`] when the question is refused; others when the broker fails.
pub(super) async fn depth(connection: &Connection, queue: &str) -> Result<Option<u32>, OpenError> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let channel = connection.create_channel().await?;
    match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
        Ok(found) => Ok(Some(found.message_count())),
        Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => forbidden(Err(error), || format!("queue {queue}")).map(|()| None),
    }
}

/// Binds a queue; a binding that exists is fine.
///
/// # Errors
/// [`OpenError::Forbidden`] without the permission to; others when the broker fails.
pub(super) async fn bind(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), OpenError> {
    let channel = connection.create_channel().await?;
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments);
    forbidden(bound.await, || format!("binding of {queue} to {exchange} by {key}: create it"))
}

/// Makes a refusal [`OpenError::Forbidden`]; `what` names the object and what to do about it.
pub(super) fn forbidden(
    result: lapin::Result<()>,
    what: impl FnOnce() -> String,
) -> Result<(), OpenError> {
    result.map_err(|error| match soft(&error) {
        Some(AMQPSoftError::ACCESSREFUSED) => OpenError::Forbidden(what()),
        _ => error.into(),
    })
}
