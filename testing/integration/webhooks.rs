//! Stores that run here post their own webhook to the intake. What they announce is scanned once, and
//! a changed tag is no reason to scan again.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Tag, Tagging};
use peers::eicar::eicar;
use peers::sink::Received;
use stack::{Daemon, S3, Seaweed, Stack};

use super::*;

const MIB: usize = 1 << 20;

async fn accepted(daemon: &Daemon) -> u64 {
    metric(daemon, "avscan_intake_total{outcome=\"accepted\"}").await
}

/// What a user does.
async fn tag(s3: &S3, key: &str, version: Option<&str>) {
    let tag = Tag::builder().key("owner").value("somebody").build().unwrap();
    let tags = Tagging::builder().tag_set(tag).build().unwrap();
    let put = s3.client.put_object_tagging().bucket(&s3.bucket).key(key).tagging(tags);
    put.set_version_id(version.map(str::to_owned)).send().await.unwrap();
}

async fn multipart(s3: &S3, key: &str, parts: &[Vec<u8>]) {
    let (client, bucket) = (&s3.client, &s3.bucket);
    let upload = client.create_multipart_upload().bucket(bucket).key(key).send().await.unwrap();
    let id = upload.upload_id.unwrap();
    let mut done = CompletedMultipartUpload::builder();
    for (number, part) in (1..).zip(parts) {
        let part = client
            .upload_part()
            .bucket(bucket)
            .key(key)
            .upload_id(&id)
            .part_number(number)
            .body(part.clone().into());
        let tag = part.send().await.unwrap().e_tag.unwrap();
        done = done.parts(CompletedPart::builder().part_number(number).e_tag(tag).build());
    }
    let complete = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id);
    complete.multipart_upload(done.build()).send().await.unwrap();
}

async fn copy(s3: &S3, from: &str, to: &str) {
    let source = format!("{}/{from}", s3.bucket);
    let copy = s3.client.copy_object().copy_source(source).bucket(&s3.bucket).key(to);
    copy.send().await.unwrap();
}

#[tokio::test]
async fn tags_at_a_gateway_of_minios_lineage_cause_no_second_scan() {
    let daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    s3.put("k", "x").await.unwrap();
    assert_eq!(status(&daemon, "k").await, "clean");
    tag(&s3, "k", None).await;
    // The gateway announces the upload, the daemon's tag and the user's.
    eventually("all three came", || async { accepted(&daemon).await == 3 }).await;
    // What comes after them is read after them.
    s3.put("after", "x").await.unwrap();
    daemon.reports_on("after", 1, SOON).await.unwrap();
    assert_eq!(daemon.reports_on("k", 1, SOON).await.unwrap().len(), 1);
    assert_eq!(metric(&daemon, "avscan_verdicts_total{status=\"clean\",reason=\"\"}").await, 2);
}

/// A `SeaweedFS` whose filer posts to the daemon; dropped in this order.
struct Scene {
    daemon: Daemon,
    store: Seaweed,
}

async fn seaweed() -> Scene {
    let stack = Stack::from_env();
    // The filer has to know the intake, and the daemon the store.
    let mut daemon = Daemon::prepare(&stack, binary(), &[("RETRY_DELAYS", "1s")]).await.unwrap();
    let endpoint = format!("http://{}/events", daemon.env()["INTAKE_ADDR"]);
    let store = Seaweed::with_webhook(&endpoint, &daemon.env()["INTAKE_TOKEN"]).await.unwrap();
    let (access, secret) = store.keys();
    daemon.set_env("MINIO_SERVER_URL", store.url());
    daemon.set_env("MINIO_ACCESS_KEY_ID", access);
    daemon.set_env("MINIO_SECRET_ACCESS_KEY", secret);
    daemon.spawn().unwrap();
    daemon.wait_ready(SOON).await.unwrap();
    Scene { daemon, store }
}

impl Scene {
    async fn bucket(&self, name: &str) -> S3 {
        let s3 = self.store.s3(name);
        s3.create_bucket().await.unwrap();
        s3
    }

    /// The one report about an object.
    async fn report(&self, key: &str) -> serde_json::Value {
        self.daemon.reports_on(key, 1, SOON).await.unwrap()[0].json()
    }

    /// Waits until everything that was announced has been read.
    async fn quiet(&self) {
        let amqp = Stack::from_env().amqp().await.unwrap();
        let queue = &self.daemon.names.queue;
        let mut last = (0, 0);
        let mut since = Instant::now();
        let started = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            assert!(started.elapsed() < 2 * SOON, "the filer or the daemon never ends");
            let mut waiting = metric(&self.daemon, "avscan_in_flight").await;
            for queue in [queue.clone(), format!("{queue}.retry.1s")] {
                waiting += u64::from(amqp.count(&queue).await.unwrap().unwrap_or_default());
            }
            let now = (accepted(&self.daemon).await, self.daemon.reports().len());
            if waiting > 0 || now != last {
                (last, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(amqp.count(&format!("{queue}.dead")).await.unwrap(), Some(0));
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.daemon.reports().iter().filter_map(Received::key).collect();
        keys.sort();
        keys
    }
}

#[tokio::test]
async fn what_the_filer_of_seaweedfs_posts_is_scanned_once() {
    let scene = seaweed().await;
    let s3 = scene.bucket("plain").await;
    s3.put("in/a b+c %20 é", "small").await.unwrap();
    s3.put("large", vec![b'x'; 9 * MIB]).await.unwrap();
    s3.put("bad", eicar()).await.unwrap();
    s3.put("empty", "").await.unwrap();
    s3.put("folder/", "").await.unwrap();
    for key in ["in/a b+c %20 é", "large", "empty"] {
        assert_eq!(scene.report(key).await["status"], "clean", "{key}");
    }
    assert_eq!(scene.report("bad").await["action"], "delete");
    assert!(s3.head("bad").await.unwrap().is_none());
    copy(&s3, "large", "copy").await;
    assert_eq!(scene.report("copy").await["size"], 9 * MIB);
    scene.quiet().await;
    assert_eq!(scene.keys(), ["bad", "copy", "empty", "in/a b+c %20 é", "large"]);

    // Each has the daemon's tag by now; a user's makes no difference, nor does a deletion.
    tag(&s3, "large", None).await;
    s3.delete("empty").await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.keys().len(), 5);

    // Other bytes do, of the same length or not.
    s3.put("in/a b+c %20 é", "SMALL").await.unwrap();
    scene.daemon.reports_on("in/a b+c %20 é", 2, SOON).await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.keys().len(), 6);
}

/// The parts of an upload are files that can be read by S3 while it is under way, so they are scanned
/// as objects of their own.
#[tokio::test]
async fn multipart_uploads_to_seaweedfs_are_scanned_once_they_are_complete() {
    let scene = seaweed().await;
    let s3 = scene.bucket("multi").await;
    multipart(&s3, "good", &[vec![b'x'; 5 * MIB], b"end".to_vec()]).await;
    multipart(&s3, "bad", &[eicar()]).await;
    assert_eq!(scene.report("good").await["status"], "clean");
    assert_eq!(scene.report("bad").await["action"], "delete");
    scene.quiet().await;
    let keys: Vec<_> =
        scene.keys().into_iter().filter(|key| !key.starts_with(".uploads/")).collect();
    assert_eq!(keys, ["bad", "good"]);
}

#[tokio::test]
async fn versions_in_seaweedfs_are_scanned_each_by_its_id() {
    let scene = seaweed().await;
    let s3 = scene.bucket("versioned").await;
    s3.set_versioning(true).await.unwrap();
    let put = async |content: Vec<u8>| {
        let put = s3.client.put_object().bucket(&s3.bucket).key("d/k").body(content.into());
        put.send().await.unwrap().version_id.unwrap()
    };
    // The removal of a version announces the one that is current then. At the same time as the upload
    // of that one, both would be scanned: one upload after the other.
    let old = put(b"old".to_vec()).await;
    scene.daemon.reports_on("d/k", 1, SOON).await.unwrap();
    scene.quiet().await;
    let bad = put(eicar()).await;
    scene.daemon.reports_on("d/k", 2, SOON).await.unwrap();
    scene.quiet().await;
    let new = put(b"new".to_vec()).await;
    let reports = scene.daemon.reports_on("d/k", 3, SOON).await.unwrap();
    let of = |version: &str| {
        let mine = |report: &&Received| report.json()["version_id"] == version;
        let all = || reports.iter().map(Received::json).collect::<Vec<_>>();
        let report = reports.iter().find(mine);
        let report = report.unwrap_or_else(|| panic!("no report on {version}: {:?}", all()));
        report.json()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!([of(&old), of(&bad), of(&new)], ["clean", "infected", "clean"]);
    scene.quiet().await;
    assert_eq!(scene.daemon.reports_on("d/k", 3, SOON).await.unwrap().len(), 3);
    tag(&s3, "d/k", Some(&old)).await;
    // A delete marker has no bytes.
    s3.delete("d/k").await.unwrap();
    scene.quiet().await;
    assert_eq!(scene.daemon.reports_on("d/k", 3, SOON).await.unwrap().len(), 3);
    let left = s3.client.list_object_versions().bucket(&s3.bucket).send().await.unwrap();
    let ids: Vec<_> = left.versions().iter().filter_map(|version| version.version_id()).collect();
    assert_eq!(ids, [new, old]);
}

/// Only the filer may say that a file is a version: then it is not scanned under its own name.
#[tokio::test]
async fn an_uploader_cannot_pass_a_file_off_as_a_version_of_another() {
    let scene = seaweed().await;
    let s3 = scene.bucket("plain").await;
    let id = "0123456789abcdef0123456789abcdef";
    let key = format!("k.versions/v_{id}");
    // Without versions, the store answers with this one, whatever version it is asked for.
    s3.put("k", "harmless").await.unwrap();
    scene.report("k").await;
    let header = |name: &str| (name.to_owned(), id.as_bytes().to_vec());
    let headers = [
        header("seaweed-x-amz-version-id"),
        header("x-amz-meta-seaweed-x-amz-version-id"),
        header("x-amz-version-id"),
    ];
    let answer = s3.put_raw(&key, &eicar(), &headers).await.unwrap();
    assert_eq!(answer.status, 200);
    let report = scene.report(&key).await;
    assert_eq!(
        (report["status"].as_str(), report["action"].as_str()),
        (Some("infected"), Some("delete"))
    );
    assert!(s3.head(&key).await.unwrap().is_none());
}
