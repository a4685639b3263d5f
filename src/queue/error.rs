//! What keeps a session from being opened, by who has to do something about it.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The broker knows us not, or not that virtual host.
    #[error("the broker refused the login: {0}; check user, password and virtual host")]
    Refused(String),
    /// No connection, or it broke.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// A right is missing.
    #[error("not allowed by the broker: {0}, or give the user the right to")]
    Forbidden(String),
    /// Something of ours exists and is not as it must be.
    #[error("{0} exists with other arguments than ours: move its messages and remove it")]
    Mismatch(String),
}

impl From<lapin::Error> for OpenError {
    fn from(error: lapin::Error) -> Self {
        if let ErrorKind::ProtocolError(amqp) = error.kind() {
            match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    return Self::Forbidden(format!("{}: make it", amqp.get_message()));
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    return Self::Refused(amqp.get_message().to_string());
                }
                _ => {}
            }
        }
        Self::Unreachable(crate::failure::causes(&error))
    }
}
