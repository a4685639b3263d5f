//! How many notifications are parked.

use crate::config::{Extra, Inspection};
use crate::queue::count_parked;

/// What stands beside the standings: what was announced and given up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Parked {
    /// `None` where it is not known.
    pub(super) messages: Option<u32>,
    /// One line for people.
    pub(super) line: String,
}

/// Asks the broker, where one is configured.
pub(super) async fn ask(settings: &Inspection) -> Option<Parked> {
    let broker = match &settings.broker {
        Extra::Unset => return None,
        Extra::Set(broker) => broker,
        Extra::Wrong(problems) => {
            let line = format!("parked notifications are not known: {}", problems.one_line());
            return Some(Parked { messages: None, line });
        }
    };
    let queue = &broker.queue;
    Some(match count_parked(broker, &settings.trust).await {
        Ok(Some(0)) => {
            Parked { messages: Some(0), line: format!("no notification is parked in {queue}.dead") }
        }
        Ok(Some(count)) => {
            let line = format!(
                "{count} notifications are parked in {queue}.dead; list them: bucket-av-scanner \
                 redrive --dry-run"
            );
            Parked { messages: Some(count), line }
        }
        Ok(None) => {
            let line = format!("no notification is parked: there is no queue {queue}.dead");
            Parked { messages: Some(0), line }
        }
        Err(error) => {
            let line = format!("parked notifications are not known: {error}");
            Parked { messages: None, line }
        }
    })
}
