//! Turns RabbitMQ into deliveries, and settles each exactly once.
//!
//! The only room that knows AMQP. A [`Session`] is a pair of connections that lives until the first
//! fault and is then dropped whole; an `Intake` is one consumer on it; a [`Delivery`] is one
//! message with its place on the retry ladder; a [`Disposition`] says what becomes of it. Copies
//! of a message are published and confirmed before the original is acknowledged, so a crash
//! anywhere leaves a duplicate and never a hole.

mod channels;
mod error;
mod intake;
mod publisher;
mod redrive;
mod results;
mod session;
mod topology;

pub(crate) use self::error::OpenError;
pub(crate) use self::intake::{Delivery, Intake, Next};
pub(crate) use self::publisher::{Outbox, Publisher, Record};
pub(crate) use self::redrive::Parked;
pub(crate) use self::session::{Session, look};
pub(crate) use self::topology::{Lane, Topology, minio_settings};

use crate::failure::{Failure, Stage};

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// It is done.
    Ack,
    /// It announced several objects: each part becomes a message of its own.
    Split(Vec<Vec<u8>>),
    /// Try again later.
    Wait {
        /// Index of the tier to wait in.
        tier: usize,
        /// The attempt that the copy will be.
        attempt: u32,
        /// How often it was put off without an attempt being counted.
        deferred: u32,
        /// The object that it announces was not there.
        missed: bool,
        /// Why.
        note: Note,
    },
    /// Into the dead-letter queue.
    Park(Note),
    /// Left unacknowledged: the broker gives it to another consumer when the channel closes.
    Release,
}

/// Why a message waits or was parked; carried in its headers.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) reason: &'static str,
    pub(crate) stage: Stage,
    pub(crate) detail: String,
}

impl From<&Failure> for Note {
    fn from(failure: &Failure) -> Self {
        Self {
            reason: failure.reason.into_str(),
            stage: failure.stage,
            detail: failure.detail.clone(),
        }
    }
}
