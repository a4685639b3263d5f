//! Plays answers of a store to this room, for fuzzers.

use std::cell::RefCell;
use std::io;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::effects::compare::Current;
use super::{Claim, Fetched, Identity, Look, Pin, Store};
use crate::config::StoreSettings;
use crate::event::ObjectRef;
use crate::failure::Stage;
use crate::tls::Trust;

const MIB: u64 = 1 << 20;
/// The announced `ETag`.
const ETAG: &str = "0f1e2d3c";

struct Rig {
    runtime: Runtime,
    listener: TcpListener,
    store: Store,
}

impl Rig {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let settings = StoreSettings {
            url: Url::parse(&url).map_err(io::Error::other)?,
            keys: Some(("access".into(), "secret".into())),
            region: "us-east-1".into(),
            max_object: MIB,
            spool: 4 * MIB,
            temp_dir: std::env::temp_dir(),
            proxy_variable: None,
        };
        let store =
            runtime.block_on(Store::new(&settings, &Trust::default())).map_err(io::Error::other)?;
        // Each answer is sent once.
        let once = store.client.config().to_builder().retry_config(RetryConfig::disabled());
        let store = Store { client: Client::from_conf(once.build()), ..store };
        Ok(Self { runtime, listener, store })
    }

    /// Runs `ask` while every request gets `answer`, on a connection of its own.
    fn ask<T>(&self, answer: &[u8], ask: impl AsyncFnOnce(&Store) -> T) -> T {
        let playing = async {
            loop {
                let Ok((mut stream, _)) = self.listener.accept().await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_buf(&mut request).await {
                        Ok(1..) => {}
                        _ => break,
                    }
                }
                // The client may have closed the connection.
                stream.write_all(answer).await.ok();
                stream.shutdown().await.ok();
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                asked = ask(&self.store) => asked,
                () = playing => unreachable!("plays for ever"),
            }
        })
    }
}

/// Plays the bytes of an HTTP answer, head and body, to a GET and to a HEAD of an object. Whatever
/// is accepted as the object must be in these bytes, whole, under the `ETag` and version that they
/// name.
///
/// # Panics
/// When something else is accepted.
pub fn store_headers(answer: &[u8]) {
    thread_local! {
        static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
    }
    RIG.with_borrow_mut(|rig| {
        if rig.is_none() {
            *rig = Rig::new().ok();
        }
        let Some(rig) = rig else { return };
        get(rig, answer, None);
        get(rig, answer, Some("v1"));
        head(rig, answer);
    });
}

fn get(rig: &Rig, answer: &[u8], version: Option<&str>) {
    let object = ObjectRef {
        bucket: "b".into(),
        key: "k".into(),
        version_id: version.map(str::to_owned),
        uncovered: false,
        etag: Some(ETAG.into()),
        size: None,
        sequencer: None,
        event_time: None,
        file: None,
    };
    let found = rig.ask(answer, async |store: &Store| {
        match store.open(&object, Look::Last, Claim::Firm).await {
            Ok(Fetched::Download(download)) => {
                let downloaded = store.receive(*download).await.ok()?;
                let sha256 = downloaded.sha256().await.ok()?;
                Some((downloaded, sha256))
            }
            Ok(Fetched::Gone) => {
                assert!(has(answer, b"404"), "gone without a 404");
                None
            }
            Ok(Fetched::TooLarge(identity)) => {
                assert!(identity.bytes() > MIB);
                None
            }
            Ok(Fetched::Unreadable(_) | Fetched::Versions(_)) | Err(_) => None,
        }
    });
    let Some((downloaded, sha256)) = found else { return };
    assert_contains(answer, &downloaded.identity);
    if let (Some(asked), Some(found)) = (version, downloaded.identity.version_id()) {
        assert_eq!(asked, found, "another version than was asked for");
    }
    let length = usize::try_from(downloaded.length()).unwrap_or(usize::MAX);
    let bodies = (0..answer.len()).filter(|at| answer[..*at].ends_with(b"\n"));
    let mut bodies = bodies.filter_map(|at| answer.get(at..at.checked_add(length)?));
    let same = |body: &[u8]| hex::encode(Sha256::digest(body)) == sha256;
    assert!(bodies.any(same), "{length} bytes that were not sent");
}

fn head(rig: &Rig, answer: &[u8]) {
    let scanned = Identity::new("b", "k", None, Some(ETAG), Some(7));
    let found = rig.ask(answer, async |store: &Store| {
        let (current, _) = store.compare_at(&scanned, ETAG, Stage::Tag, None).await.ok()?;
        Some(current)
    });
    match found {
        None | Some(Current::Changed | Current::Nothing | Current::Denied) => {}
        Some(Current::Name | Current::NullVersion) => assert!(has(answer, ETAG.as_bytes())),
        Some(Current::Version(version)) => {
            assert!(has(answer, ETAG.as_bytes()) && has(answer, version.as_bytes()));
        }
    }
}

/// Asserts that the answer contains all of an identity.
fn assert_contains(answer: &[u8], identity: &Identity) {
    let parts = [identity.etag.as_deref(), identity.version_id()];
    for part in parts.into_iter().flatten() {
        assert!(has(answer, part.as_bytes()), "{part:?} was not sent");
    }
    let pinned = !matches!(identity.pin, Pin::Nothing);
    assert!(pinned, "bytes that nothing tells apart from others");
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
