//! What an uploader can choose: headers, metadata, tags, keys and sizes.

use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use peers::error::Result;
use peers::proxy::{Call, Fault, Op};
use stack::say;

use crate::ledger::{OBJECTS, joined};
use crate::samples::Fate;
use crate::scenario::Scenario;
use crate::world::{Bucket, World};

/// The announced length of a large object, in bytes, and how long its body does not arrive.
const CLAIMED: u64 = 600 << 20;
const CLAIM: Duration = Duration::from_secs(20);
const SMALL: usize = 200;

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "hostile-uploads",
            "headers in any bytes, awkward keys, full sets of tags; no versions",
            hostile,
        ),
        Scenario::new("hostile-uploads-versioned", "the same in a versioned bucket", hostile)
            .bucket(Bucket::Versioned),
        Scenario::new(
            "large-before-small",
            "objects of 600 MiB take the temp disk for 20 s; 200 small ones need none",
            large,
        )
        .with("VOLUME_SIZE", "1")
        .with("SPOOL_SIZE", "1")
        .with("SCAN_TIMEOUT", "40")
        .store_fails(),
    ]
}

/// The most tags that S3 allows.
const TEN_TAGS: &str = "tags-10";

type Headers = Vec<(String, Vec<u8>)>;

/// Kinds of uploads, by the header that is unusual.
fn headers() -> Vec<(&'static str, Headers)> {
    let one = |name: &str, value: &[u8]| vec![(name.to_owned(), value.to_vec())];
    let many = (0..95).map(|n| (format!("x-amz-meta-a{n:02}"), b"1".to_vec())).collect();
    vec![
        ("disposition", one("content-disposition", b"attachment; filename=\"caf\xe9.pdf\"")),
        ("cache-control", one("cache-control", b"no-store, a=\xff")),
        ("language", one("content-language", b"\xe9")),
        ("type", one("content-type", b"text/plain; charset=\xff")),
        ("encoding", one("content-encoding", b"gzip")),
        ("metadata-latin-1", one("x-amz-meta-author", b"Jos\xe9")),
        ("metadata-utf-8", one("x-amz-meta-author", "日本".as_bytes())),
        ("metadata-encoded", one("x-amz-meta-author", b"=?utf-8?q?=FF=00?=")),
        ("metadata-large", one("x-amz-meta-author", &[b'a'; 1900])),
        ("metadata-95", many),
        ("expires-bytes", one("expires", b"\xff")),
        ("expires-words", one("expires", b"Thu, 99 Foo 2026 25:61:61 XYZ")),
        ("redirect", one("x-amz-website-redirect-location", b"/elsewhere")),
        ("reduced", one("x-amz-storage-class", b"REDUCED_REDUNDANCY")),
        ("infrequent", one("x-amz-storage-class", b"STANDARD_IA")),
        (TEN_TAGS, one("x-amz-tagging", b"a=1&b=2&c=3&d=4&e=5&f=6&g=7&h=8&i=9&j=10")),
    ]
}

/// Ends of keys that some program parses wrongly.
fn keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a b+c%20d",
        "plus+plus",
        "percent%41%zz%",
        "quotes'\"<>&",
        "new\nline",
        "tab\tand\rreturn",
        "ümläut/日本語/🦀",
        "decomposed e\u{301}",
        "turned \u{202e}txt.exe",
        "zero\u{200b}width",
        "delete\u{7f}",
        "..hidden..",
        "...",
        "dot.",
        " blank ",
        "semi;colon=equals?query#hash",
        "back\\slash",
        "[brackets]{braces}|^`~",
        "$(id)`id`${HOME}",
        "a//b",
        "a/./b",
        "a/../b",
        // No key ends in a slash: SeaweedFS stores no bytes for such a key, and returns none.
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push(
        [["k"; 220].concat(), ["l"; 220].concat(), ["m"; 220].concat(), ["é"; 110].concat()]
            .join("/"),
    );
    keys
}

/// Each of them must get the result of its content.
fn hostile(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    world.while_feeding(OBJECTS, 8, async |world| {
        let (mut refused, mut dropped) = (Vec::new(), Vec::new());
        for fate in [Fate::Clean, Fate::Infected] {
            for (kind, headers) in headers() {
                let key = format!("headers-{kind}-{fate:?}");
                let Some(_) = world.ledger.put_odd(&key, fate, &headers).await? else {
                    refused.push(key);
                    continue;
                };
                // An infected object may be deleted by now.
                let head = world.direct.head_raw(&key, None).await?;
                let kept = headers.iter().all(|header| head.headers.contains(header));
                if fate == Fate::Clean && kind != TEN_TAGS && !kept {
                    dropped.push(kind);
                }
            }
            for (n, end) in keys().into_iter().enumerate() {
                // An object with the name of the folder would conflict with the folder.
                let key = format!("keys-{n}-{fate:?}/{end}");
                if world.ledger.put_odd(&key, fate, &[]).await?.is_none() {
                    refused.push(key.escape_debug().to_string());
                }
            }
        }
        // There is no room for another tag: the object stays as it is, is reported, and its message
        // is parked.
        world.ledger.change(
            |upload| upload.key == format!("headers-{TEN_TAGS}-{:?}", Fate::Clean),
            |upload| upload.parks = true,
        );
        say!("    the store refuses: {}", refused.join(", "));
        say!("    the store does not keep the headers of: {}", dropped.join(", "));
        Ok(())
    })
}

/// An object that fits into memory needs no temp disk, and must not wait for it, even if others do.
fn large(world: &mut World) -> LocalBoxFuture<'_, Result<()>> {
    Box::pin(async {
        world.store.script(|call: &Call| {
            let claims = matches!(call.op, Op::Get | Op::Head) && call.before == 0;
            if claims && call.key.starts_with("large") {
                Fault::Claim(CLAIMED, CLAIM)
            } else {
                Fault::Pass
            }
        });
        // For each replica, one that gets the temp disk and one that waits for it.
        for n in 0..4 {
            world.ledger.put_small(&format!("large-{n}"), Fate::Clean).await?;
        }
        let limit = Duration::from_secs(5);
        world
            .expect("four large objects are requested", limit, async |world| {
                let asked = world.store.asked();
                let large = |n: &u32| {
                    let key = format!("large-{n}");
                    asked.iter().any(|asked| asked.op == Op::Get && asked.key == key)
                };
                Ok((0..4).filter(large).count() == 4)
            })
            .await?;
        let claimed = Instant::now();
        let ledger = &world.ledger;
        let puts = stream::iter(0..SMALL).map(|n| async move {
            let fate = if n % 5 == 0 { Fate::Infected } else { Fate::Clean };
            ledger.put_small(&format!("small-{n}"), fate).await.map(drop)
        });
        puts.buffer_unordered(8).try_collect::<()>().await?;
        let reported = |world: &World| {
            let small = |taken: &crate::world::Taken| {
                taken.report["key"].as_str().is_some_and(|key| key.starts_with("small"))
            };
            world.taken().iter().filter(|taken| small(taken)).count()
        };
        let limit = CLAIM.saturating_sub(claimed.elapsed() + Duration::from_secs(3));
        let what = "the small objects are reported while large ones wait";
        world.expect(what, limit, async |world| Ok(reported(world) >= SMALL)).await?;
        joined(world.ledger.feed(OBJECTS - SMALL, Duration::from_secs(2))).await
    })
}
