//! Finds copies and their records in the quarantine bucket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};

use super::which::{CopyName, Which};
use crate::app::verify::Address;
use crate::failure::Failure;
use crate::quarantine::{Record, copy_of, record_name};
use crate::store::{Downloaded, Fetched, Identity, Listed, Listing, Mark, Place, Store, Walk};
use crate::sweep::Pages;

/// Records that are read at once.
const CONCURRENCY: usize = 16;

/// The quarantine bucket.
pub(super) struct Bucket {
    pub(super) store: Arc<Store>,
    pub(super) name: String,
}

/// One object in it.
#[derive(Debug)]
pub(super) struct Held {
    /// The name of the copy, whether it is there or not.
    pub(super) name: String,
    /// It is there.
    pub(super) copy: bool,
    pub(super) beside: Beside,
}

/// What is beside a copy.
#[derive(Debug)]
pub(super) enum Beside {
    Record(Box<Record>),
    /// Nothing.
    Nothing,
    /// Something that is no record of a format that is known here.
    Unreadable,
}

/// What the list names of one object.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    copy: bool,
    record: bool,
}

impl Bucket {
    /// What is meant, in the order of the names. The errors are lines.
    pub(super) async fn select<'a>(
        &'a self,
        which: &'a Which,
    ) -> Result<impl Stream<Item = Result<Held, String>> + 'a, String> {
        let (names, matching) = match which {
            Which::Named(names) => {
                let names = names.iter().map(|CopyName(name)| (name.clone(), None));
                (names.collect::<Vec<_>>(), None)
            }
            Which::Matching(matching) => {
                let listed = self.list().await?;
                let names = listed.into_iter().map(|(name, seen)| (name, Some(seen)));
                (names.collect(), Some(matching).filter(|matching| !matching.is_everything()))
            }
        };
        let now = SystemTime::now();
        let held = stream::iter(names)
            .map(move |(name, seen)| self.look(name, seen))
            .buffered(CONCURRENCY)
            .filter(move |held| {
                let is_meant = match (held, matching) {
                    (Ok(Held { beside: Beside::Record(record), .. }), Some(matching)) => {
                        matching.holds(record, now)
                    }
                    // Without a record nothing is known of it.
                    (Ok(_), Some(_)) => false,
                    (Err(_), _) | (_, None) => true,
                };
                std::future::ready(is_meant)
            });
        Ok(held)
    }

    /// The copy of this name; an error also where there is nothing.
    pub(super) async fn one(&self, CopyName(name): &CopyName) -> Result<Held, String> {
        self.look(name.clone(), None).await
    }

    /// The copy itself; `None` if it is not there.
    pub(super) async fn copy(&self, name: &str) -> Result<Option<Identity>, String> {
        let found = self.store.identify(&self.name, name, None).await;
        found.map_err(|failure| format!("{name}: {failure}"))
    }

    /// The bytes of a copy.
    pub(super) async fn download(&self, name: &str) -> Result<Downloaded, String> {
        let failed = |failure: Failure| failure.to_string();
        match self.store.open_current(&self.name, name).await.map_err(failed)? {
            Fetched::Download(download) => self.store.receive(*download).await.map_err(failed),
            Fetched::Gone | Fetched::Versions(_) => Err("its copy is not there".to_owned()),
            Fetched::TooLarge(_) => Err("it is larger than VOLUME_SIZE".to_owned()),
            Fetched::Unreadable(_) => Err("its copy is archived or encrypted".to_owned()),
        }
    }

    /// The names of all copies and records.
    async fn list(&self) -> Result<BTreeMap<String, Seen>, String> {
        let walk =
            Walk { bucket: self.name.clone(), prefix: String::new(), listing: Listing::Objects };
        let mut pages = Pages::new(Arc::clone(&self.store), walk, Mark::Start);
        let mut all = BTreeMap::<String, Seen>::new();
        let error = |failure| format!("{}: {failure}", self.name);
        while let Some(page) = pages.next().await.map_err(error)? {
            for listed in page {
                let Listed::Object(Identity { key, .. }) = listed else { continue };
                let Some(name) = copy_of(&key) else { continue };
                let seen = all.entry(name.to_owned()).or_default();
                *(if name == key { &mut seen.copy } else { &mut seen.record }) = true;
            }
        }
        Ok(all)
    }

    async fn look(&self, name: String, seen: Option<Seen>) -> Result<Held, String> {
        let failed = |failure| format!("{name}: {failure}");
        let record = record_name(&name);
        let Seen { copy, record: is_listed } = match seen {
            Some(seen) => seen,
            None => Seen {
                copy: self.copy(&name).await?.is_some(),
                record: self
                    .store
                    .identify(&self.name, &record, None)
                    .await
                    .map_err(failed)?
                    .is_some(),
            },
        };
        let beside = if is_listed {
            let place = Place { bucket: self.name.clone(), key: record };
            let json = self.store.read_small(&place).await.map_err(failed)?;
            match json.as_deref().and_then(Record::read) {
                Some(record) => Beside::Record(Box::new(record)),
                None => Beside::Unreadable,
            }
        } else {
            Beside::Nothing
        };
        if !copy && matches!(beside, Beside::Nothing) {
            return Err(format!("{name}: nothing of this name is in {}", self.name));
        }
        Ok(Held { name, copy, beside })
    }
}

impl Held {
    pub(super) fn record(&self) -> Option<&Record> {
        match &self.beside {
            Beside::Record(record) => Some(record),
            Beside::Nothing | Beside::Unreadable => None,
        }
    }

    /// The record, or a line that says why there is none.
    pub(super) fn record_or_why(&self) -> Result<&Record, String> {
        let Self { name, beside, .. } = self;
        match beside {
            Beside::Record(record) => Ok(record),
            Beside::Nothing => Err(format!("{name}: it has no record, so nothing is known of it")),
            Beside::Unreadable => {
                Err(format!("{name}: its record cannot be read: it is none, or of a newer version"))
            }
        }
    }

    /// What it is, in one line behind its name.
    pub(super) fn said(&self) -> String {
        match self.record_or_why() {
            Ok(record) => {
                format!("{} {} {}", self.name, record.signature.escape_debug(), address(record))
            }
            Err(why) => why,
        }
    }
}

/// Where an object was.
pub(super) fn address(record: &Record) -> Address {
    Address::new(&record.bucket, &record.key, record.version_id.as_deref())
}
