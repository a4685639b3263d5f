//! Asks for sweeps, and reads what the journal and an audit say of them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use peers::error::{Context, Error, Result};
use serde_json::Value;

use crate::ledger::Upload;
use crate::samples::Fate;
use crate::world::World;

/// The number of objects of a large sweep, for a longer run by hand.
const OBJECTS: &str = "SWEEP_OBJECTS";
/// What one object may take in a run by hand, on a slow machine.
const EACH: Duration = Duration::from_millis(100);
/// A journal that delivers nothing for this time was read to its end.
const SILENCE: Duration = Duration::from_secs(2);

/// The number of objects of a large sweep.
pub(super) fn objects(usual: usize) -> usize {
    by_hand().unwrap_or(usual)
}

/// Longest time of a scenario.
pub(super) fn longest(usual: Duration) -> Duration {
    by_hand().map_or(usual, |count| usual + EACH * u32::try_from(count).unwrap_or(u32::MAX))
}

fn by_hand() -> Option<usize> {
    std::env::var(OBJECTS).ok()?.parse().ok()
}

/// What a command said.
pub(super) struct Said {
    code: Option<i32>,
    pub(super) out: String,
    /// What went wrong, for people.
    err: String,
}

impl Said {
    /// An error of the scenario, unless the command did what it was asked for.
    pub(super) fn is_done(&self, what: &str) -> Result<()> {
        (self.code == Some(0)).then_some(()).context(format!("{what}: {}{}", self.out, self.err))
    }
}

impl World {
    /// The program with the settings of the first replica.
    pub(super) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env_clear().envs(self.daemons[0].env());
        command
    }

    /// Runs it to its end.
    pub(super) async fn command(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = self.program(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.context("command")?.context(format!("{arguments:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Ok(Said { code: output.status.code(), out, err })
    }

    /// Asks for a sweep of the bucket, and does not wait for its end.
    pub(super) async fn sweep(&self, arguments: &[&str]) -> Result<()> {
        let bucket = self.direct.bucket.as_str();
        let said = self.command(&[&["sweep", bucket], arguments].concat()).await?;
        said.is_done("sweep")
    }

    /// Whether every sweep is over, and nothing that it announced waits.
    pub(super) async fn is_swept(&self) -> Result<bool> {
        let said = self.command(&["sweep", "status"]).await?;
        let mut sweeps = said.out.lines().filter(|line| line.starts_with("sweep ")).peekable();
        Ok(said.code == Some(0)
            && sweeps.peek().is_some()
            && sweeps.all(|line| line.contains(" is done: "))
            && said.out.contains("\n0 objects wait to be scanned"))
    }

    /// Reads the journal to its end.
    async fn journal(&self) -> Result<Vec<Value>> {
        let amqp = self.amqp().await?;
        let channel = amqp.channel().await?;
        channel.basic_qos(100, BasicQosOptions::default()).await.context("journal")?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        let stream = format!("{}.journal", self.queue());
        let (tag, options) = ("".into(), BasicConsumeOptions::default());
        let entries = channel.basic_consume(stream.as_str().into(), tag, options, arguments).await;
        let mut entries = entries.context("journal")?;
        let mut facts = Vec::new();
        while let Ok(Some(entry)) = tokio::time::timeout(SILENCE, entries.next()).await {
            let entry = entry.context("journal")?;
            entry.acker.ack(BasicAckOptions::default()).await.context("journal")?;
            facts.push(serde_json::from_slice(&entry.data).context("an entry")?);
        }
        Ok(facts)
    }

    /// What is wrong with the sweeps of the bucket by the journal: each must be one chain, in which
    /// every page was read to its end once. Returns the number of pages, too.
    pub(super) async fn chains(&self, sweeps: usize) -> Result<(usize, Vec<String>)> {
        let mut pages: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let (mut begun, mut done, mut wrongs) = (0, 0, Vec::new());
        for fact in self.journal().await? {
            match fact["kind"].as_str() {
                Some("sweep_begun") => begun += 1,
                Some("sweep_paged") => {
                    let sweep = fact["sweep"].as_str().unwrap_or_default().to_owned();
                    pages.entry(sweep).or_default().push(fact["page"].as_u64().unwrap_or_default());
                    done += usize::from(fact["next"].is_null());
                }
                Some("mark") => {}
                _ => wrongs.push(format!("unexpected in the journal: {fact}")),
            }
        }
        if [begun, done, pages.len()] != [sweeps; 3] {
            wrongs.push(format!(
                "{begun} sweeps begun, {done} ended, {} with pages, of {sweeps}",
                pages.len()
            ));
        }
        for (sweep, read) in &pages {
            if !read.iter().copied().eq(0..read.len() as u64) {
                wrongs.push(format!("sweep {sweep} is not one chain, its pages were {read:?}"));
            }
        }
        Ok((pages.values().map(Vec::len).sum(), wrongs))
    }

    /// What is wrong with the bucket by an audit: every object must have a valid receipt.
    pub(super) async fn audited(&self) -> Result<Vec<String>> {
        let said = self.command(&["audit", &self.direct.bucket, "--json", "-"]).await?;
        let summary: Value =
            serde_json::from_str(&said.out).context(format!("audit: {}", said.err))?;
        let uploads = self.ledger.uploads();
        let of = |is_wanted: fn(&Upload) -> bool| {
            uploads.iter().filter(|upload| !upload.over && is_wanted(upload)).count() as u64
        };
        let expected = |standing: &str| match standing {
            "verified" => of(|upload| upload.fate == Fate::Clean),
            "unscannable" => of(|upload| matches!(upload.fate, Fate::Encrypted | Fate::TooLarge)),
            _ => 0,
        };
        let rows = summary["standings"].as_array();
        let rows = rows.ok_or_else(|| Error::new(format!("no standings: {summary}")))?;
        let mut wrongs = Vec::new();
        let mut known = 0;
        for row in rows {
            let standing = row["standing"].as_str().unwrap_or_default();
            let (found, wanted) = (row["objects"].as_u64(), expected(standing));
            known += usize::from(matches!(standing, "verified" | "unscannable"));
            if found != Some(wanted) {
                let examples = &row["examples"];
                wrongs.push(format!("audit: {found:?} {standing}, not {wanted}: {examples}"));
            }
        }
        let unknown = summary["not_found_out"].as_array().is_none_or(|rows| !rows.is_empty());
        if known != 2 || unknown || !summary["interrupted"].is_null() {
            wrongs.push(format!("audit: not to its end: {}", summary["sentence"]));
        }
        Ok(wrongs)
    }
}
