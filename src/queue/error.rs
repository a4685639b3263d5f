//! What keeps a session from being opened, by who has to do something about it.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::failure::causes;

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The broker knows us not, or not that virtual host.
    #[error(
        "the broker refused the login: {0}: check RABBITMQ_REGULAR_USER_NAME, \
         RABBITMQ_REGULAR_USER_PASS and RABBITMQ_VHOST"
    )]
    Refused(String),
    /// No connection, or it broke.
    #[error(
        "the broker cannot be reached: {0}: check RABBITMQ_ENDPOINT, RABBITMQ_PORT and RABBITMQ_TLS"
    )]
    Unreachable(String),
    /// A right is missing.
    #[error("not allowed by the broker: {0}, or give the user the right to")]
    Forbidden(String),
    /// Something of ours exists and is not as it must be.
    #[error("{0} exists with other arguments than ours: move its messages and remove it")]
    Mismatch(String),
}

/// The error that closed a channel; `None` for an error of the connection or of the client library.
pub(super) fn soft(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

impl From<lapin::Error> for OpenError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    Self::Forbidden(format!("{}: make it", amqp.get_message()))
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    Self::Refused(amqp.get_message().to_string())
                }
                _ => Self::Unreachable(causes(&error)),
            },
            ErrorKind::ParsingError(_) => {
                Self::Unreachable("what answers there speaks no AMQP".to_owned())
            }
            _ => Self::Unreachable(causes(&error)),
        }
    }
}

impl OpenError {
    /// The same error, struck while connecting to `peer`: a right that is missing there can only be
    /// that to log in.
    pub(super) fn while_connecting(error: lapin::Error, peer: &str) -> Self {
        if let ErrorKind::ProtocolError(amqp) = error.kind()
            && amqp.kind() == &AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
        {
            return Self::Refused(format!("{peer}: {}", amqp.get_message()));
        }
        match Self::from(error) {
            Self::Refused(detail) => Self::Refused(format!("{peer}: {detail}")),
            Self::Unreachable(detail) => Self::Unreachable(format!("{peer}: {detail}")),
            error => error,
        }
    }
}
