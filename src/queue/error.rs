//! Why a session could not be opened, grouped by who must act.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::failure::causes;
use crate::hints;

/// Why a session could not be opened, or a method on it failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Login or virtual host refused.
    #[error("the broker refused the login: {0}: check {hint}", hint = hints::BROKER_LOGIN)]
    Refused(String),
    /// No connection, no answer, or the connection was lost.
    #[error("the broker cannot be reached: {0}: check {hint}", hint = hints::BROKER_ADDRESS)]
    Unreachable(String),
    /// A permission is missing. The text ends with what an operator can do instead.
    #[error("not allowed by the broker: {0}, or give the user the permission")]
    Forbidden(String),
    /// A queue or exchange of ours exists with other arguments.
    #[error("{0} exists with other arguments than ours: move its messages and remove it")]
    Mismatch(String),
}

impl From<lapin::Error> for OpenError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    Self::Forbidden(format!("{}: create it", amqp.get_message()))
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    Self::Refused(amqp.get_message().to_string())
                }
                _ => Self::Unreachable(causes(&error)),
            },
            ErrorKind::ParsingError(_) => {
                Self::Unreachable("the server does not speak AMQP".to_owned())
            }
            _ => Self::Unreachable(causes(&error)),
        }
    }
}

impl OpenError {
    /// For an error while connecting to `peer`, where `ACCESS_REFUSED` means that the login failed.
    /// Source: <https://www.rabbitmq.com/docs/auth-notification>
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
