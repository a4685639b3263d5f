//! The results for objects, with both engines.

use peers::eicar::eicar;
use peers::{ClamavRest, notification, zip};
use stack::Stack;

use super::*;

/// Uploads one object of each kind, and checks the results.
async fn each_kind_ends_as_it_should(overrides: &[(&str, &str)]) {
    let daemon = daemon(overrides).await;
    let s3 = daemon.s3();
    let zipped = zip::archive(&[("readme.txt", b"hello"), ("x.com", &eicar())]);
    s3.put("clean.txt", "nothing to see").await.unwrap();
    s3.put("empty", "").await.unwrap();
    s3.put("eicar.com", eicar()).await.unwrap();
    s3.put("eicar.zip", zipped).await.unwrap();
    s3.put("secret.zip", zip::encrypted("secret.txt", 100)).await.unwrap();
    s3.put("deep.zip", zip::nested("deep.txt", b"deep", 40)).await.unwrap();
    assert_eq!(status(&daemon, "clean.txt").await, "clean");
    assert_eq!(status(&daemon, "empty").await, "clean");
    gone(&daemon, "eicar.com").await;
    gone(&daemon, "eicar.zip").await;
    assert_eq!(status(&daemon, "secret.zip").await, "no");
    assert_eq!(status(&daemon, "deep.zip").await, "no");
    for (key, status, reason, action) in [
        ("clean.txt", "clean", None, "tag"),
        ("empty", "clean", None, "tag"),
        ("eicar.com", "infected", None, "delete"),
        ("eicar.zip", "infected", None, "delete"),
        ("secret.zip", "no", Some("encrypted"), "tag"),
        ("deep.zip", "no", Some("limits_exceeded"), "tag"),
    ] {
        let report = daemon.reports_on(key, 1, SOON).await.unwrap().remove(0).json();
        assert_eq!(report["status"], status, "{report}");
        assert_eq!(report["reason"].as_str(), reason, "{report}");
        assert_eq!(report["action"], action, "{report}");
        assert_eq!(report["engine"]["limits_reported"], true, "{report}");
    }
}

#[tokio::test]
async fn with_clamd_each_kind_ends_as_it_should() {
    each_kind_ends_as_it_should(&[]).await;
}

#[tokio::test]
async fn with_clamd_over_tcp_each_kind_ends_as_it_should() {
    let tcp = format!("tcp://{}", Stack::from_env().settings().clamd_tcp);
    each_kind_ends_as_it_should(&[("CLAMD_ENDPOINT", &tcp)]).await;
}

#[tokio::test]
async fn with_clamav_rest_v2_each_kind_ends_as_it_should() {
    let rest = ClamavRest::start(&Stack::from_env().settings().clamd_tcp, false).await.unwrap();
    let engine = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", rest.url())];
    each_kind_ends_as_it_should(&engine).await;
}

#[tokio::test]
async fn with_clamav_rest_v1_each_kind_ends_as_it_should() {
    let rest = ClamavRest::start(&Stack::from_env().settings().clamd_tcp, true).await.unwrap();
    let engine = [("SCANNER", "clamav-rest"), ("CLAMD_ENDPOINT", rest.url())];
    each_kind_ends_as_it_should(&engine).await;
}

#[tokio::test]
async fn awkward_keys_are_found_and_reported_decoded() {
    let daemon = daemon(&[]).await;
    let keys = [
        "a b+c %20 é 日本.txt",
        "100%",
        "a%2Fb",
        "+",
        "dir/with/..dots",
        "quote\"'&=?#;",
        "tab\tand newline\n",
        "~!*()",
    ];
    for key in keys {
        daemon.s3().put(key, "x").await.unwrap();
    }
    for key in keys {
        assert_eq!(status(&daemon, key).await, "clean", "{key}");
        daemon.reports_on(key, 1, SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_raw_key_without_a_raw_path_is_distinguished_from_an_encoded_one_by_the_etag() {
    let daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    // Ceph writes keys raw. Both spellings exist, so only the ETag shows which one is meant.
    daemon.s3().put("a b", "decoded").await.unwrap();
    let etag = s3.put("a+b", "raw").await.unwrap();
    assert_eq!(status(&daemon, "a b").await, "clean");
    assert_eq!(status(&daemon, "a+b").await, "clean");
    s3.set_tags("a b", &[("other", "x")]).await.unwrap();
    s3.set_tags("a+b", &[("other", "x")]).await.unwrap();
    let mut event = notification::put(&s3.bucket, "a+b", Some(3), Some(etag.trim_matches('"')));
    event.as_object_mut().unwrap().remove("Key");
    event["Records"][0]["s3"]["object"]["key"] = "a+b".into();
    event["Records"][0]["eventSource"] = "aws:s3".into();
    notify(&daemon, event.to_string().as_bytes()).await;
    assert_eq!(status(&daemon, "a+b").await, "clean");
    // The notification may also mean this one.
    assert_eq!(status(&daemon, "a b").await, "clean");
}

#[tokio::test]
async fn the_users_tags_stay() {
    let daemon = daemon(&[]).await;
    let s3 = daemon.s3();
    s3.put("mine", "x").await.unwrap();
    status(&daemon, "mine").await;
    s3.set_tags("mine", &[("owner", "me"), ("scanned", "infected"), ("a", "1")]).await.unwrap();
    let event = notification::put(&s3.bucket, "mine", None, None);
    notify(&daemon, event.to_string().as_bytes()).await;
    eventually("the tag is corrected and the others stay", || async {
        let tags = s3.tags("mine").await.unwrap().unwrap();
        tags["scanned"] == "clean" && tags["owner"] == "me" && tags["a"] == "1" && tags.len() == 4
    })
    .await;
}

#[tokio::test]
async fn a_full_tag_set_is_left_unchanged_and_reported() {
    let daemon = daemon(&[("TAG_KEY", "late"), ("REPORT_CLEAN", "false")]).await;
    let s3 = daemon.s3();
    s3.put("full", "x").await.unwrap();
    let late = || async { s3.tags("full").await.unwrap().unwrap().contains_key("late") };
    eventually("the first scan", late).await;
    let tags: Vec<(String, String)> = (0..10).map(|n| (format!("t{n}"), "v".to_owned())).collect();
    let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    s3.set_tags("full", &tags).await.unwrap();
    let event = notification::put(&s3.bucket, "full", None, None).to_string();
    notify(&daemon, event.as_bytes()).await;
    let report = daemon.reports_on("full", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!(report["status"], "clean");
    assert_eq!(report["action"], "no");
    assert_eq!(report["error"], "tag_set_full");
    let parked = dead(&daemon).await;
    assert_eq!(parked.body, event.as_bytes());
    assert_eq!(parked.headers["avscan-reason"], "tag_set_full");
    let left = s3.tags("full").await.unwrap().unwrap();
    assert!(left.len() == 10 && !left.contains_key("late"));
}

#[tokio::test]
async fn settings_decide_what_is_done_to_infected_objects() {
    let tagging = daemon(&[("DELETE_FILE", "false"), ("TAG_KEY", "av")]).await;
    tagging.s3().put("eicar", eicar()).await.unwrap();
    eventually("tagged infected", || async {
        let tags = tagging.s3().tags("eicar").await.unwrap().unwrap();
        tags.get("av").map(String::as_str) == Some("infected")
    })
    .await;
    let report = tagging.reports_on("eicar", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["action"]), (&"infected".into(), &"tag".into()));
    assert!(report["signature"].as_str().unwrap().to_lowercase().contains("eicar"));

    let telling = daemon(&[("DELETE_FILE", "false"), ("TAG_FILES", "false")]).await;
    telling.s3().put("eicar", eicar()).await.unwrap();
    let report = telling.reports_on("eicar", 1, SOON).await.unwrap().remove(0).json();
    assert_eq!((&report["status"], &report["action"]), (&"infected".into(), &"no".into()));
    assert!(telling.s3().tags("eicar").await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn an_object_that_is_gone_is_no_failure() {
    let daemon = daemon(&[]).await;
    let event = notification::put(&daemon.names.bucket, "never was", Some(1), Some("e"));
    notify(&daemon, event.to_string().as_bytes()).await;
    eventually("counted as gone", || async {
        metric(&daemon, r#"avscan_notifications_total{end="gone"}"#).await >= 1
    })
    .await;
    assert!(daemon.reports().is_empty());
}

#[tokio::test]
async fn no_temp_file_is_left() {
    let daemon = daemon(&[]).await;
    for n in 0..5 {
        daemon.s3().put(&format!("{n}"), vec![b'x'; 200_000]).await.unwrap();
    }
    for n in 0..5 {
        status(&daemon, &format!("{n}")).await;
    }
    let folder = daemon.env()["TMPDIR"].clone();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_marker_is_no_failure() {
    let daemon = daemon(&[]).await;
    daemon.s3().put("folder/", "").await.unwrap();
    daemon.s3().put("folder/file", "x").await.unwrap();
    assert_eq!(status(&daemon, "folder/file").await, "clean");
    eventually("both have ended", || async {
        metric(&daemon, r#"avscan_notifications_total{end="applied"}"#).await
            + metric(&daemon, r#"avscan_notifications_total{end="gone"}"#).await
            + metric(&daemon, r#"avscan_notifications_total{end="superseded"}"#).await
            >= 2
    })
    .await;
    let amqp = Stack::from_env().amqp().await.unwrap();
    assert_eq!(amqp.count(&format!("{}.dead", daemon.names.queue)).await.unwrap(), Some(0));
}
