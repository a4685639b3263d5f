//! Moves of very large and very small objects.

use std::io::Write;
use std::time::Duration;

use stack::Clamd;

use super::*;

/// The size of the large object in MiB, for a longer run by hand.
const SIZE: &str = "MOVE_MIB";
/// For an object of some GiB, with a debug build.
const PATIENCE: Duration = Duration::from_mins(25);
/// clamd looks at nothing shorter.
const SHORTEST: &[u8] = b"virus!";

/// A daemon that moves to `held` what it finds in `s3`.
async fn mover(s3: &S3, held: &S3, overrides: &[(&str, &str)]) -> Daemon {
    for bucket in [s3, held] {
        bucket.create_bucket().await.unwrap();
    }
    let mut all = vec![("QUARANTINE_BUCKET", held.bucket.as_str()), ("RETRY_DELAYS", "1s")];
    all.extend(overrides);
    daemon(&all).await
}

fn buckets(of: impl Fn(&str) -> S3) -> [S3; 2] {
    let id = Uuid::new_v4().simple().to_string();
    [of(&format!("from-{id}")), of(&format!("held-{id}"))]
}

/// Uploads a sparse file that begins with EICAR, and waits until it is moved.
async fn move_large(daemon: &Daemon, s3: &S3, held: &S3) {
    let size = std::env::var(SIZE).map_or(24, |text| text.parse::<u64>().unwrap()) << 20;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&eicar()).unwrap();
    file.as_file().set_len(size).unwrap();
    s3.put_file("large", file.path()).await.unwrap();
    let expected = s3.sha256("large").await.unwrap().unwrap();
    let started = Instant::now();
    let event = notification::put(&s3.bucket, "large", None, None);
    notify(daemon, event.to_string().as_bytes()).await;
    let report = daemon.reports_on("large", 1, PATIENCE).await.unwrap().remove(0).json();
    assert_eq!(said(&report), ["infected", "quarantine", "-"]);
    while s3.head("large").await.unwrap().is_some() {
        assert!(started.elapsed() < PATIENCE, "it was never deleted:\n{}", daemon.output());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stack::say!("{} MiB: moved after {:.1?}", size >> 20, started.elapsed());
    assert_eq!(report["attempt"], 1, "a limit of time was too short");
    assert_eq!(
        (&report["sha256"], report["size"].as_u64()),
        (&expected.clone().into(), Some(size))
    );
    let copy = report["quarantine_key"].as_str().unwrap();
    assert_eq!(held.sha256(copy).await.unwrap().unwrap(), expected);
    assert_eq!(held.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_large_object_of_the_gateway_is_moved() {
    let stack = Stack::from_env();
    let [s3, held] = buckets(|bucket| stack.s3().with_bucket(bucket));
    let daemon = mover(&s3, &held, &[]).await;
    move_large(&daemon, &s3, &held).await;
}

#[tokio::test]
async fn a_large_object_of_seaweedfs_is_moved() {
    let store = versions::store().await;
    let [s3, held] = buckets(|bucket| store.s3(bucket));
    let (access, secret) = store.keys();
    let daemon = mover(
        &s3,
        &held,
        &[
            ("MINIO_SERVER_URL", store.url()),
            ("MINIO_ACCESS_KEY_ID", access),
            ("MINIO_SECRET_ACCESS_KEY", secret),
        ],
    )
    .await;
    move_large(&daemon, &s3, &held).await;
}

#[tokio::test]
async fn the_shortest_that_an_engine_finds_is_moved() {
    let mut clamd = Clamd::start(&[]).await.unwrap();
    clamd.add_signature("Short.Test", SHORTEST).await.unwrap();
    let stack = Stack::from_env();
    let [s3, held] = buckets(|bucket| stack.s3().with_bucket(bucket));
    let endpoint = format!("unix://{}", clamd.socket().display());
    let daemon = mover(&s3, &held, &[("CLAMD_ENDPOINT", &endpoint)]).await;
    s3.put("short", SHORTEST).await.unwrap();
    let event = notification::put(&s3.bucket, "short", None, None);
    notify(&daemon, event.to_string().as_bytes()).await;
    let report = daemon.reports_on("short", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(said(&report), ["infected", "quarantine", "-"]);
    eventually("it is deleted", || async { s3.head("short").await.unwrap().is_none() }).await;
    let copy = report["quarantine_key"].as_str().unwrap();
    assert_eq!(held.get(copy).await.unwrap().unwrap(), SHORTEST);
}
