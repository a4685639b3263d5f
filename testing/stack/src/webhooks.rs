//! A fixed port for the gateway's webhook, which hands each request on to a daemon's intake.
//!
//! The gateway keeps an event in a folder until a call for it is answered 200, and repeats a failing
//! call every three seconds before it makes the next one. So one dead daemon would hold up the events
//! of all buckets, and each event would be up to three seconds late. For the buckets of tests, events
//! are therefore read from that folder as soon as they are there, and posted as the gateway would; a
//! later call for one of them is answered 200. The other buckets get the gateway's own calls alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Request};
use peers::error::{Context, Error, Result};
use peers::web::{self, Answer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::state::State;

/// The path of an intake.
pub const PATH: &str = "/events";
/// Between two looks into the gateway's folder.
const READ_INTERVAL: Duration = Duration::from_millis(25);
/// Before what no intake took is posted again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// An intake may take ten seconds until it gives up on the broker.
const INTAKE_TIMEOUT: Duration = Duration::from_secs(12);
/// An intake that did not answer comes after the others for this time.
const DISTRUST: Duration = Duration::from_secs(30);
/// The gateway's call waits for an event that is being posted, so that it seldom has to be repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the events of one bucket go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `127.0.0.1:PORT` of each replica's intake. With none, events are answered 200 and dropped.
    pub intakes: Vec<String>,
    /// Only the gateway's own calls count; nothing is read ahead.
    pub by_webhook_alone: bool,
}

struct Webhooks {
    state: State,
    events: PathBuf,
    routes_file: PathBuf,
    client: reqwest::Client,
    routes: Mutex<BTreeMap<String, Route>>,
    /// Events that an intake took, by the file that is still in the folder.
    posted: Mutex<HashMap<PathBuf, Mark>>,
    silent: Mutex<HashMap<String, Instant>>,
    turn: AtomicUsize,
}

/// Runs the port of the stack that `state_file` describes.
///
/// # Errors
/// When it cannot listen or there is no stack.
pub async fn process(address: &str, state_file: &Path) -> Result<()> {
    let state = State::load(state_file)?.context("there is no such stack")?;
    let routes_file = state.dir.join("routes.json");
    let routes = fs::read(&routes_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let webhooks = Arc::new(Webhooks {
        events: state.dir.join("gateway/events/minio-webhook-1"),
        routes_file,
        client: reqwest::Client::builder().timeout(INTAKE_TIMEOUT).build().context("client")?,
        routes: Mutex::new(routes.unwrap_or_default()),
        posted: Mutex::default(),
        silent: Mutex::default(),
        turn: AtomicUsize::default(),
        state,
    });
    let listener = web::listen(address).await?;
    tokio::spawn(read_ahead(Arc::clone(&webhooks)));
    web::serve(listener, move |request| take(request, Arc::clone(&webhooks))).await;
    Ok(())
}

async fn take(request: Request<Incoming>, webhooks: Arc<Webhooks>) -> Option<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let status = match (head.method.as_str(), head.uri.path().strip_prefix("/routes/")) {
        ("PUT", Some(bucket)) => match webhooks.set_route(bucket, &body) {
            Ok(()) => 200,
            Err(error) => return Some(web::answer(500, "text/plain", error.to_string())),
        },
        ("POST", None) => webhooks.called(head.uri.path(), head.headers, body).await,
        // The gateway's question at its start, whether somebody listens.
        _ => 200,
    };
    Some(web::answer(status, "", ""))
}

/// Posts what lies in the gateway's folder before the gateway calls. The files stay: the gateway
/// counts them and removes them itself.
async fn read_ahead(webhooks: Arc<Webhooks>) {
    let mut known = HashSet::new();
    // One event of a bucket at a time, so that they keep their order; buckets do not wait for others.
    let mut buckets: HashMap<String, mpsc::UnboundedSender<(PathBuf, Event)>> = HashMap::new();
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        let waiting = webhooks.waiting();
        let there: HashSet<&PathBuf> = waiting.iter().collect();
        known.retain(|file| there.contains(file));
        lock(&webhooks.posted).retain(|file, _| there.contains(file));
        for file in waiting {
            if known.contains(&file) {
                continue;
            }
            // Not complete yet, or removed by the gateway just now.
            let Some(event) = fs::read(&file).ok().and_then(|record| Event::filed(&record).ok())
            else {
                continue;
            };
            known.insert(file.clone());
            if webhooks.route(&event.bucket).by_webhook_alone {
                continue;
            }
            let queue = buckets.entry(event.bucket.clone()).or_insert_with(|| {
                let (queue, events) = mpsc::unbounded_channel();
                tokio::spawn(post(Arc::clone(&webhooks), events));
                queue
            });
            // The other end lives as long as this one.
            drop(queue.send((file, event)));
        }
    }
}

/// Posts the events of one bucket, each until an intake takes it.
async fn post(webhooks: Arc<Webhooks>, mut events: mpsc::UnboundedReceiver<(PathBuf, Event)>) {
    let mut headers = HeaderMap::new();
    let token = format!("Bearer {}", webhooks.state.settings.intake_token);
    headers.insert(AUTHORIZATION, token.parse().expect("a token of hexadecimal digits"));
    headers.insert(CONTENT_TYPE, "application/json".parse().expect("a header's value"));
    while let Some((file, event)) = events.recv().await {
        loop {
            let (headers, body) = (headers.clone(), Bytes::from(event.body.clone()));
            let status = webhooks.hand_on(&event.bucket, PATH, headers, body).await;
            if is_success(status) {
                break;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        lock(&webhooks.posted).insert(file, event.mark);
    }
}

impl Webhooks {
    /// A call of the gateway: the status that answers it.
    async fn called(&self, path: &str, headers: HeaderMap, body: Bytes) -> u16 {
        let event = Event::called(&body);
        let bucket = event.as_ref().map_or("", |event| &event.bucket);
        let route = self.route(bucket);
        let Ok(event) = &event else { return self.hand_on(bucket, path, headers, body).await };
        if route.by_webhook_alone || route.intakes.is_empty() {
            return self.hand_on(bucket, path, headers, body).await;
        }
        let start = Instant::now();
        while start.elapsed() < CALL_TIMEOUT {
            if lock(&self.posted).values().any(|mark| *mark == event.mark) {
                return 200;
            }
            tokio::time::sleep(READ_INTERVAL).await;
        }
        503
    }

    /// Posts to the intakes of a bucket until one takes it: its status, or that of the last one, or
    /// 503 when none answers.
    async fn hand_on(&self, bucket: &str, path: &str, headers: HeaderMap, body: Bytes) -> u16 {
        let mut intakes = self.route(bucket).intakes;
        if intakes.is_empty() {
            return 200;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % intakes.len();
        intakes.rotate_left(turn);
        {
            let silent = lock(&self.silent);
            let is_silent =
                |intake: &String| silent.get(intake).is_some_and(|at| at.elapsed() < DISTRUST);
            intakes.sort_by_key(is_silent);
        }
        let mut last = 503;
        for intake in intakes {
            let request = self.client.post(format!("http://{intake}{path}"));
            match request.headers(headers.clone()).body(body.clone()).send().await {
                Ok(answer) if answer.status().is_success() => return answer.status().as_u16(),
                Ok(answer) => last = answer.status().as_u16(),
                Err(error) => {
                    eprintln!("{intake} does not answer: {error}");
                    if error.is_timeout() {
                        lock(&self.silent).insert(intake, Instant::now());
                    }
                }
            }
        }
        last
    }

    fn route(&self, bucket: &str) -> Route {
        lock(&self.routes).get(bucket).cloned().unwrap_or_else(|| Route {
            intakes: vec![self.state.settings.intake_address.clone()],
            by_webhook_alone: true,
        })
    }

    fn set_route(&self, bucket: &str, body: &[u8]) -> Result<()> {
        let route = serde_json::from_slice(body).context("route")?;
        let mut routes = lock(&self.routes);
        routes.insert(bucket.into(), route);
        let text = serde_json::to_vec(&*routes).context("routes")?;
        fs::write(&self.routes_file, text).context(self.routes_file.display())
    }

    /// The events that wait in the gateway's folder, oldest first.
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
}

/// What tells an event from all others, also from a later one of the same object.
type Mark = String;

/// One event, and the body that the gateway posts for it.
struct Event {
    bucket: String,
    mark: Mark,
    body: Vec<u8>,
}

impl Event {
    /// An event as the gateway posts it.
    fn called(body: &[u8]) -> Result<Self> {
        let message: Value = serde_json::from_slice(body).context("event")?;
        Self::new(&message["Records"][0], body.to_vec())
    }

    /// An event as the gateway's folder has it: the record alone.
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
        // The record itself goes in byte for byte.
        let mut body =
            format!(r#"{{"EventName":{name},"Key":{},"Records":["#, Value::from(key)).into_bytes();
        body.extend_from_slice(record);
        body.extend_from_slice(b"]}");
        Self::new(&parsed, body)
    }

    fn new(record: &Value, body: Vec<u8>) -> Result<Self> {
        let (bucket, object) = (&record["s3"]["bucket"]["name"], &record["s3"]["object"]);
        let bucket = bucket.as_str().context("an event without a bucket")?.to_owned();
        let parts =
            [&record["eventName"], &record["eventTime"], &object["key"], &object["sequencer"]];
        let mark = parts.iter().fold(bucket.clone(), |mark, part| format!("{mark} {part}"));
        Ok(Self { bucket, mark, body })
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filed_event_becomes_the_body_that_the_gateway_would_post() {
        let sent = peers::notification::put("b", "a b+c/%20 é", Some(1), Some("e"));
        let filed = Event::filed(sent["Records"][0].to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&filed.body).unwrap(), sent);
        let called = Event::called(sent.to_string().as_bytes()).unwrap();
        assert_eq!((filed.mark, filed.bucket), (called.mark, called.bucket));
    }

    #[test]
    fn half_a_file_is_no_event() {
        assert!(Event::filed(b"{\"eventName\":\"s3:Obj").is_err());
    }
}
