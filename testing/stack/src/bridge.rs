//! Forwards events from the store's webhook to the broker, without losing one.
//!
//! The gateway keeps every event in a folder until a webhook call for it is answered 200. The
//! bridge answers 200 only after the broker has confirmed that the message is in a queue, and 503
//! otherwise; then the gateway tries again. The gateway reads that folder only every three seconds.
//! The bridge polls the folder far more often and publishes first, so that latencies measured with
//! the stack are those of the daemon. The later call for the same event is answered without
//! publishing it again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use peers::error::{Context, Error, Result};
use peers::web::{self, Answer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::amqp::Amqp;
use crate::state::State;

/// Between two looks into the gateway's folder.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Until an event that could not be forwarded is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Events that are remembered, to recognise a second copy.
const MAX_REMEMBERED: usize = 20_000;

/// Where the events of one bucket go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// To this exchange, with this routing key.
    Publish {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// Nowhere: the test that wanted them is over.
    Discard,
}

struct Bridge {
    state: State,
    events: PathBuf,
    routes_file: PathBuf,
    done_file: PathBuf,
    link: Mutex<Link>,
}

/// Used by one event at a time.
#[derive(Default)]
struct Link {
    amqp: Option<Amqp>,
    routes: BTreeMap<String, Route>,
    done: HashSet<String>,
    order: VecDeque<String>,
}

/// Runs the bridge of the stack that `state_file` describes.
///
/// # Errors
/// When it cannot listen or there is no stack.
pub async fn process(address: &str, state_file: &std::path::Path) -> Result<()> {
    let state = State::load(state_file)?.context("there is no such stack")?;
    let routes_file = state.dir.join("routes.json");
    let routes = fs::read(&routes_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let done_file = state.dir.join("bridge.done");
    let mut link = Link { routes: routes.unwrap_or_default(), ..Link::default() };
    let done = fs::read_to_string(&done_file).unwrap_or_default();
    done.lines().for_each(|mark| link.remember(mark.to_owned()));
    let bridge = Arc::new(Bridge {
        events: state.dir.join("gateway/events/minio-webhook-1"),
        routes_file,
        done_file,
        link: Mutex::new(link),
        state,
    });
    let listener = web::listen(address).await?;
    tokio::spawn(watch(bridge.clone()));
    web::serve(listener, move |request| take(request, bridge.clone())).await;
    Ok(())
}

async fn take(request: Request<Incoming>, bridge: Arc<Bridge>) -> Option<Answer> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.ok()?.to_bytes();
    let outcome = match (method.as_str(), path.strip_prefix("/routes/")) {
        ("PUT", Some(bucket)) => bridge.set_route(bucket, &body).await,
        ("POST", None) => match Event::called(&body) {
            Ok(event) => bridge.forward(event).await.and_then(|fate| match fate {
                Fate::Done => Ok(()),
                Fate::Unroutable => Err(Error::new("no queue takes it")),
            }),
            Err(error) => Err(error),
        },
        // The gateway checks once, when it starts, whether the webhook answers.
        _ => Ok(()),
    };
    Some(match outcome {
        Ok(()) => web::answer(200, "", ""),
        Err(error) => {
            eprintln!("503: {error}");
            web::answer(503, "text/plain", error.to_string())
        }
    })
}

/// Publishes events from the gateway's folder before the gateway calls.
///
/// The files stay: the gateway counts and removes them itself.
async fn watch(bridge: Arc<Bridge>) {
    // The time of the next attempt; `None` for events that were forwarded.
    let mut seen: HashMap<PathBuf, Option<Instant>> = HashMap::new();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let waiting = bridge.waiting();
        seen.retain(|file, _| waiting.contains(file));
        let due = |file: &PathBuf| match seen.get(file) {
            None => true,
            Some(next) => next.is_some_and(|next| next <= Instant::now()),
        };
        for file in waiting.into_iter().filter(due).collect::<Vec<_>>() {
            // Incomplete yet, or already removed by the gateway.
            let Ok(body) = fs::read(&file) else { continue };
            let Ok(event) = Event::filed(&body) else { continue };
            let next = match bridge.forward(event).await {
                Ok(Fate::Done) => None,
                // The exchange of one test is not declared yet. That must not delay other events.
                Ok(Fate::Unroutable) => Some(Instant::now() + RETRY_INTERVAL),
                Err(error) => {
                    eprintln!("not forwarded: {error}");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    break;
                }
            };
            seen.insert(file, next);
        }
    }
}

/// One event, and the message that announces it.
struct Event {
    name: String,
    bucket: String,
    /// Distinguishes it from all other events, also from a later one for the same object.
    mark: String,
    message: Vec<u8>,
}

impl Event {
    /// An event from a call of the gateway; its body already is the message.
    fn called(body: &[u8]) -> Result<Self> {
        let message: Value = serde_json::from_slice(body).context("event")?;
        Self::new(&message["Records"][0], body.to_vec())
    }

    /// An event from the gateway's folder, which holds only the record.
    fn filed(record: &[u8]) -> Result<Self> {
        let parsed: Value = serde_json::from_slice(record).context("event")?;
        let object = &parsed["s3"]["object"]["key"];
        let bucket = &parsed["s3"]["bucket"]["name"];
        let (Some(object), Some(bucket)) = (object.as_str(), bucket.as_str()) else {
            return Err(Error::new("an event without an object"));
        };
        let key: String = url::form_urlencoded::parse(format!("k={object}").as_bytes())
            .map(|(_, key)| format!("{bucket}/{key}"))
            .collect();
        let name = &parsed["eventName"];
        // The message holds the record byte for byte.
        let mut message =
            format!(r#"{{"EventName":{name},"Key":{},"Records":["#, Value::from(key)).into_bytes();
        message.extend_from_slice(record);
        message.extend_from_slice(b"]}");
        Self::new(&parsed, message)
    }

    fn new(record: &Value, message: Vec<u8>) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (bucket, object) = (text(&record["s3"]["bucket"]["name"]), &record["s3"]["object"]);
        if bucket.is_empty() {
            return Err(Error::new("an event without a bucket"));
        }
        let parts =
            [&record["eventName"], &record["eventTime"], &object["key"], &object["sequencer"]];
        let mark = parts.iter().fold(bucket.clone(), |mark, part| format!("{mark} {part}"));
        Ok(Self { name: text(&record["eventName"]), bucket, mark, message })
    }
}

/// The result for an event.
enum Fate {
    /// It is in a queue, or its route is [`Route::Discard`].
    Done,
    /// Its exchange or queue does not exist.
    Unroutable,
}

impl Link {
    fn remember(&mut self, mark: String) {
        self.done.insert(mark.clone());
        self.order.push_back(mark);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }
}

impl Bridge {
    /// The events in the gateway's folder, oldest first.
    fn waiting(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self
            .events
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        files.into_iter().map(|(_, file)| file).collect()
    }

    async fn forward(&self, event: Event) -> Result<Fate> {
        let Event { name, bucket, mark, message } = event;
        let mut link = self.link.lock().await;
        if link.done.contains(&mark) {
            return Ok(Fate::Done);
        }
        let settings = &self.state.settings;
        let route = link.routes.get(&bucket).cloned().unwrap_or_else(|| Route::Publish {
            exchange: settings.exchange.clone(),
            routing_key: settings.routing_key.clone(),
        });
        if let Route::Publish { exchange, routing_key } = route {
            if link.amqp.as_ref().is_none_or(|amqp| !amqp.connected()) {
                link.amqp = Some(Amqp::connect(settings).await?);
            }
            let amqp = link.amqp.as_ref().context("no broker")?;
            let headers = [("minio-bucket", &*bucket), ("minio-event", &*name)];
            let queued = amqp.offer(&exchange, &routing_key, &message, &headers).await;
            if queued.is_err() {
                // After a publish without an answer the state of the channel is unknown.
                link.amqp = None;
            }
            if !queued? {
                return Ok(Fate::Unroutable);
            }
        }
        // A bridge that is killed before this line publishes the event once more.
        self.write_down(&mark)?;
        link.remember(mark);
        Ok(Fate::Done)
    }

    fn write_down(&self, mark: &str) -> Result<()> {
        let file = fs::File::options().create(true).append(true).open(&self.done_file);
        let written = file.and_then(|mut file| file.write_all(format!("{mark}\n").as_bytes()));
        written.context(self.done_file.display())
    }

    async fn set_route(&self, bucket: &str, body: &[u8]) -> Result<()> {
        let route: Route = serde_json::from_slice(body).context("route")?;
        let mut link = self.link.lock().await;
        link.routes.insert(bucket.into(), route);
        let text = serde_json::to_vec(&link.routes).context("routes")?;
        fs::write(&self.routes_file, text).context(self.routes_file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filed_event_becomes_the_message_that_the_gateway_would_send() {
        let sent = peers::notification::put("b", "a b+c/%20 é", Some(1), Some("e"));
        let filed = Event::filed(sent["Records"][0].to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&filed.message).unwrap(), sent);
        let called = Event::called(sent.to_string().as_bytes()).unwrap();
        assert_eq!(
            (filed.mark, filed.bucket, filed.name),
            (called.mark, called.bucket, called.name)
        );
    }

    #[test]
    fn an_incomplete_file_is_no_event() {
        assert!(Event::filed(b"{\"eventName\":\"s3:Obj").is_err());
    }
}
