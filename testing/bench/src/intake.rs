//! How many webhooks the intake confirms, beside publishes that each await their own confirm.
//!
//! The daemon has no engine here, so that nothing consumes what comes in.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use peers::error::{Context, Error, Result};
use peers::notification;
use serde::Serialize;
use stack::ports::free_port;
use stack::{Amqp, Daemon, Stack, say};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::report::number;
use crate::stats::{Percentiles, Spread, as_f64};

/// Connections of senders, each with one request in flight.
const SENDERS: [usize; 3] = [1, 8, 64];
/// How long each rate is measured.
const MEASURED: Duration = Duration::from_secs(4);
/// After the queue was emptied.
const SETTLE_TIME: Duration = Duration::from_secs(2);
const TOKEN: &str = "the-token-of-the-bench";
const PATIENCE: Duration = Duration::from_mins(1);

/// The figures of all numbers of senders.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Intake {
    pub(super) rows: Vec<Row>,
    /// Requests a second at half of what the most senders reached.
    pub(super) paced: f64,
    /// From the time that a request was due to its answer, at that rate.
    pub(super) times: Percentiles,
}

/// One number of senders.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) senders: usize,
    /// Publishes a second, as many in flight.
    pub(super) bare: Spread,
    /// Webhooks a second.
    pub(super) webhooks: Spread,
    /// Webhooks as a part of bare publishes, of the same run.
    pub(super) ratio: Spread,
    /// From a request to its answer in the last run.
    pub(super) times: Percentiles,
}

struct Bench {
    daemon: Daemon,
    amqp: Amqp,
    address: String,
    body: String,
}

/// Measures each number of senders so often.
///
/// # Errors
/// When an answer is not 200, or a publish is not confirmed.
pub(super) async fn run(stack: &Stack, binary: &std::path::Path, runs: u32) -> Result<Intake> {
    let bench = Bench::start(stack, binary).await?;
    let mut rows = Vec::new();
    for senders in SENDERS {
        let (mut bare, mut webhooks, mut times) = (Vec::new(), Vec::new(), None);
        for _ in 0..runs {
            bare.push(bench.bare(senders).await?);
            let (rate, answers) = bench.webhooks(senders, None).await?;
            webhooks.push(rate);
            times = Some(answers);
        }
        let ratio = webhooks.iter().zip(&bare).map(|(webhooks, bare)| webhooks / bare);
        let row = Row {
            senders,
            ratio: Spread::of(ratio).context("no run")?,
            bare: Spread::of(bare).context("no run")?,
            webhooks: Spread::of(webhooks).context("no run")?,
            times: times.context("no run")?,
        };
        say!(
            "[bench] intake, {senders} senders: {}/s, {:.0} % of bare publishes",
            number(row.webhooks.median),
            row.ratio.median * 100.0
        );
        rows.push(row);
    }
    let most = rows.last().context("no row")?;
    let paced = most.webhooks.median / 2.0;
    let (_, times) = bench.webhooks(most.senders, Some(paced)).await?;
    say!("[bench] intake at {}/s: {} ms for 99 of 100", number(paced), number(times.p99));
    Ok(Intake { rows, paced, times })
}

impl Bench {
    async fn start(stack: &Stack, binary: &std::path::Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let settings = [
            ("INTAKE_ADDR", address.as_str()),
            ("INTAKE_TOKEN", TOKEN),
            ("SCANNER", "clamd"),
            ("CLAMD_ENDPOINT", "tcp://127.0.0.1:1"),
        ];
        let mut daemon = Daemon::prepare(stack, binary, &settings).await?;
        daemon.spawn()?;
        let body = notification::put("bench", "a/key/of/usual length.pdf", Some(1), Some("e"));
        let amqp = stack.amqp().await?;
        let bench = Self { daemon, amqp, address, body: body.to_string() };
        let started = Instant::now();
        while bench.sender().await.is_err() || bench.webhooks(1, Some(1000.0)).await.is_err() {
            (started.elapsed() < PATIENCE).then_some(()).context("the intake does not answer")?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(bench)
    }

    /// Publishes a second, each persistent, mandatory and with its own confirm, on as many channels.
    async fn bare(&self, publishers: usize) -> Result<f64> {
        let mut channels = Vec::new();
        for _ in 0..publishers {
            let channel = self.amqp.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.context("confirms")?;
            channels.push(channel);
        }
        let start = Instant::now();
        let counts = try_join_all(channels.iter().map(|channel| self.publish(channel, start)));
        let published: usize = counts.await?.into_iter().sum();
        let rate = as_f64(published) / start.elapsed().as_secs_f64();
        for channel in channels {
            channel.close(200, "done".into()).await.context("close")?;
        }
        self.empty().await?;
        Ok(rate)
    }

    async fn publish(&self, channel: &Channel, start: Instant) -> Result<usize> {
        let names = &self.daemon.names;
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let mut count = 0;
        while start.elapsed() < MEASURED {
            let (exchange, key) =
                (names.exchange.as_str().into(), names.routing_key.as_str().into());
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let body = self.body.as_bytes();
            let published = channel.basic_publish(exchange, key, options, body, properties.clone());
            let confirmed = published.await.context("publish")?.await.context("publish")?;
            matches!(confirmed, Confirmation::Ack(None)).then_some(()).context("not queued")?;
            count += 1;
        }
        Ok(count)
    }

    /// Webhooks a second, and from when each was due (or sent) until its answer. Sent as fast as they
    /// are answered, or at a steady rate.
    async fn webhooks(&self, senders: usize, rate: Option<f64>) -> Result<(f64, Percentiles)> {
        let start = Instant::now();
        let times = try_join_all((0..senders).map(|number| async move {
            let mut sender = self.sender().await?;
            let mut times = Vec::new();
            for turn in 0.. {
                let position = as_f64(number + turn * senders);
                let due = rate.map(|rate| start + Duration::from_secs_f64(position / rate));
                if let Some(due) = due {
                    tokio::time::sleep_until(due.into()).await;
                }
                let due = due.unwrap_or_else(Instant::now);
                if due.duration_since(start) >= MEASURED {
                    break;
                }
                self.post(&mut sender).await?;
                times.push(due.elapsed());
            }
            Ok::<_, Error>(times)
        }))
        .await?
        .concat();
        let reached = as_f64(times.len()) / start.elapsed().as_secs_f64();
        self.empty().await?;
        Ok((reached, Percentiles::of(times).context("no answer")?))
    }

    /// Empties the queue, and lets the broker do what it puts off: it removes the segments then.
    async fn empty(&self) -> Result<()> {
        self.amqp.purge(&self.daemon.names.queue).await?;
        tokio::time::sleep(SETTLE_TIME).await;
        Ok(())
    }

    async fn sender(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await.context("intake")?;
        stream.set_nodelay(true).context("intake")?;
        Ok(BufReader::new(stream))
    }

    async fn post(&self, sender: &mut BufReader<TcpStream>) -> Result<()> {
        let request = format!(
            "POST /events HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
            self.address,
            self.body.len(),
            self.body
        );
        sender.get_mut().write_all(request.as_bytes()).await.context("intake")?;
        let (mut line, mut length, mut ok) = (String::new(), 0, None);
        while line != "\r\n" {
            line.clear();
            let read = sender.read_line(&mut line).await.context("intake")?;
            (read > 0).then_some(()).context("the intake hung up")?;
            ok.get_or_insert(line.starts_with("HTTP/1.1 200"));
            let header = line.trim_end().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().context("length")?;
            }
        }
        sender.read_exact(&mut vec![0; length]).await.context("intake")?;
        (ok == Some(true)).then_some(()).context("the intake did not take it")
    }
}
