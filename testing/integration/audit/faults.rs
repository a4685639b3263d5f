//! Stores that fail, lie, or change meanwhile.

use std::fmt::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use peers::scripted::Server;
use peers::scripted::store::{Call, Contents, Operation, Versioning, error};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Pages of two objects, so that a few objects are many pages.
fn small_pages(call: &Call, contents: &mut Contents) -> Option<Reply> {
    let lists = matches!(call.operation, Operation::ListObjectsV2 | Operation::ListObjectVersions);
    lists.then(|| {
        let mut call = call.clone();
        call.query.insert("max-keys".into(), "2".into());
        contents.answer(&call)
    })
}

#[test]
fn an_audit_that_fails_says_where_to_go_on() {
    let (signer, broken) = (Signer::new(), Arc::new(AtomicUsize::new(2)));
    let left = Arc::clone(&broken);
    let store = Store::start_with(move |call, contents| {
        if call.operation == Operation::ListObjectsV2 {
            let last = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if last.is_err() {
                return Some(error(403, "AccessDenied"));
            }
        }
        small_pages(call, contents)
    });
    let keys = ["a", "b'; rm -rf /", "c", "d\nd", "e", "f"];
    scripted(&signer, &store, "b", &keys);
    let settings = settings(store.url(), ("a", "s"), &signer);
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("x.csv").to_string_lossy().into_owned();
    let said = audit(&["b", "--csv", &csv], &settings);
    assert_eq!(said.code, 3, "{}", said.all());
    let go_on = "go on with: bucket-av-scanner audit b --after=$'d\\012d'";
    assert!(said.out.contains("allow s3:ListBucket") && said.out.contains(go_on), "{}", said.all());
    assert!(said.out.contains("It looked at 4 objects"), "{}", said.all());
    let first = standings(&std::fs::read_to_string(format!("{csv}.part")).unwrap());
    assert!(!std::path::Path::new(&csv).exists());
    broken.store(100, Ordering::SeqCst);
    let said = audit(&["b", "--after", "d\nd", "--csv", &csv], &settings);
    assert_eq!(said.code, 0, "{}", said.all());
    // Whoever reads only this half must not take it for the whole.
    let left_out = r"Keys of b up to d\nd were not looked at.";
    assert!(said.out.contains(left_out), "{}", said.all());
    let second = standings(&std::fs::read_to_string(&csv).unwrap());
    let all: Vec<_> = first.keys().chain(second.keys()).map(String::as_str).collect();
    assert_eq!(all, keys);
}

/// What an ingress says while the store is down is not a bucket without objects, and a page that comes
/// again is not a list that goes on.
#[test]
fn what_is_no_list_ends_no_audit_well() {
    let signer = Signer::new();
    let again = "<ListBucketResult><IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
    for answer in ["", "<html>Welcome</html>", "<ListBucketResult>", again] {
        for of in [Operation::ListObjectsV2, Operation::GetBucketVersioning] {
            if of == Operation::GetBucketVersioning && answer == again {
                continue;
            }
            let store = Store::start_with(move |call, _| {
                (call.operation == of).then(|| Reply::new(200, answer))
            });
            scripted(&signer, &store, "b", &["a"]);
            let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
            assert_eq!(said.code, 3, "{of:?} {answer:?}: {}", said.all());
        }
    }
}

/// The library panics on an address that is too long for it. The end of whoever reads the list is not
/// the end of the list.
#[test]
fn a_list_that_cannot_be_asked_for_ends_no_audit_well() {
    let signer = Signer::new();
    let token = "t".repeat(70_000);
    let store = Store::start_with(move |call, _| {
        let page = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>"
        );
        (call.operation == Operation::ListObjectsV2).then(|| Reply::new(200, page))
    });
    scripted(&signer, &store, "b", &["a"]);
    let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
    assert!(said.code == 3 && said.out.contains("did not come to its end"), "{}", said.all());
}

#[test]
fn the_command_that_goes_on_trusts_the_same_keys() {
    let signer = Signer::new();
    let store = Store::start_with(|call, _| {
        (call.operation == Operation::ListObjectsV2).then(|| error(403, "AccessDenied"))
    });
    scripted(&signer, &store, "b", &["a"]);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("a key.pub").to_string_lossy().into_owned();
    let public = Command::new(BINARY)
        .args(["receipt-key", "public"])
        .env_clear()
        .env("RECEIPT_KEY", &signer.pem)
        .output()
        .unwrap();
    std::fs::write(&key, public.stdout).unwrap();
    let said = audit(&["b", "--public-key", &key], &settings(store.url(), ("a", "s"), &signer));
    let go_on = format!("go on with: bucket-av-scanner audit b --public-key='{key}'\n");
    assert!(said.code == 3 && said.out.contains(&go_on), "{}", said.all());
}

#[test]
fn a_signal_ends_it_with_what_was_found() {
    let signer = Signer::new();
    let store = Store::start_with(|call, contents| {
        let slow = call.operation == Operation::GetObjectTagging && call.key == b"c";
        slow.then(|| contents.answer(call).after(Duration::from_secs(20)))
    });
    scripted(&signer, &store, "b", &["a", "b", "c", "d"]);
    let settings = settings(store.url(), ("a", "s"), &signer);
    for signal in [Signal::INT, Signal::TERM] {
        let before = store.calls_on("b", "d").len();
        let run = command(&["b"], &settings).stdout(Stdio::piped()).spawn().unwrap();
        let asked = store.wait_for(Operation::GetObjectTagging, "b", "d", before + 1, SOON);
        assert!(!asked.is_empty());
        std::thread::sleep(Duration::from_millis(500));
        kill_process(Pid::from_raw(run.id().try_into().unwrap()).unwrap(), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(3), "{out}");
        assert!(out.contains("go on with: bucket-av-scanner audit b --after=b\n"), "{out}");
        assert!(out.contains("interrupted: by a signal"), "{out}");
    }
}

#[test]
fn a_list_that_goes_in_a_circle_is_an_error() {
    let signer = Signer::new();
    let store = Store::start_with(|call, contents| {
        let mut call = call.clone();
        // Behind `d` comes `a` again.
        if call.parameter("continuation-token") == Some("d") {
            call.query.remove("continuation-token");
        }
        small_pages(&call, contents)
    });
    scripted(&signer, &store, "b", &["a", "b", "c", "d", "e", "f"]);
    let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
    assert_eq!(said.code, 3, "{}", said.all());
    assert!(said.out.contains("goes in a circle"), "{}", said.all());
}

#[test]
fn what_the_store_does_not_say_is_named() {
    type Odd = fn(&Call) -> Option<Reply>;
    let rows: [(Odd, i32, &[&str]); 8] = [
        (
            |call| {
                let asks = call.operation == Operation::GetBucketVersioning;
                asks.then(|| error(403, "AccessDenied"))
            },
            3,
            &["allow s3:GetBucketVersioning"],
        ),
        (
            |call| {
                let asks = call.operation == Operation::GetBucketVersioning;
                asks.then(|| error(501, "NotImplemented"))
            },
            0,
            &["Every object is verified clean: 3 of 3."],
        ),
        (
            |call| {
                let asks = call.operation == Operation::ListObjectsV2;
                asks.then(|| error(404, "NoSuchBucket"))
            },
            3,
            &["NoSuchBucket"],
        ),
        (
            |call| {
                let asks = call.operation == Operation::GetObjectTagging;
                asks.then(|| error(501, "NotImplemented"))
            },
            3,
            &["this store has no tags"],
        ),
        (
            |call| {
                let asks = call.operation == Operation::GetObjectTagging && call.key == b"b";
                asks.then(|| error(403, "AccessDenied"))
            },
            3,
            &[
                "not found out: store_denied",
                "s3://b/b: HTTP 403",
                "1 of 3 objects it could not be",
            ],
        ),
        (
            |call| {
                let asks = call.operation == Operation::GetObjectTagging && call.key == b"b";
                asks.then(|| error(500, "InternalError"))
            },
            3,
            &["not found out: store_error", "s3://b/b: HTTP 500"],
        ),
        // As the gateway does.
        (
            |call| match call.operation {
                Operation::GetObjectTagging if call.key == b"b" => {
                    Some(error(500, "InternalError"))
                }
                Operation::HeadObject if call.key == b"b" => Some(Reply::new(404, "")),
                _ => None,
            },
            0,
            &["1 objects were removed meanwhile", "2 of 2."],
        ),
        (
            |call| {
                let asks = call.operation == Operation::GetObjectTagging && call.key == b"b";
                asks.then(|| error(404, "NoSuchKey"))
            },
            3,
            &["not found out: store_not_found"],
        ),
    ];
    let signer = Signer::new();
    for (odd, code, says) in rows {
        let store = Store::start_with(move |call, _| odd(call));
        scripted(&signer, &store, "b", &["a", "b", "c"]);
        let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
        assert_eq!(said.code, code, "{says:?} {}", said.all());
        assert!(says.iter().all(|part| said.out.contains(part)), "{says:?} {}", said.all());
    }
}

#[test]
fn the_command_that_goes_on_does_the_rest_of_the_same() {
    let signer = Signer::new();
    let store = Store::start_with(|call, contents| {
        if call.parameter("continuation-token").is_some() {
            return Some(error(403, "AccessDenied"));
        }
        if call.bucket == "a" { small_pages(call, contents) } else { None }
    });
    scripted(&signer, &store, "a", &["k", "l", "m"]);
    scripted(&signer, &store, "b", &["k", "n"]);
    let settings = settings(store.url(), ("a", "s"), &signer);
    let said = audit(&["a", "b", "--list", "verified"], &settings);
    let go_on = "go on with: bucket-av-scanner audit a b --list=verified --after=l";
    assert!(said.code == 3 && said.err.contains(go_on), "{}", said.all());
    // The key is about the first bucket alone.
    let said = audit(&["a", "b", "--list=verified", "--after=l"], &settings);
    assert_eq!(said.code, 0, "{}", said.all());
    assert_eq!(said.out, "s3://a/m\ns3://b/k\ns3://b/n\n");
    assert!(said.err.contains("Keys of a up to l were not looked at."), "{}", said.all());
}

/// All that a store says of one object is that it cannot say anything of it.
#[test]
fn one_broken_object_does_not_hide_the_others() {
    let signer = Signer::new();
    for broken in ["a", "c"] {
        let store = Store::start_with(move |call, _| {
            let breaks = call.key == broken.as_bytes();
            breaks.then(|| error(500, "InternalError"))
        });
        scripted(&signer, &store, "b", &["a", "b", "c", "d"]);
        let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
        assert_eq!(said.code, 3, "{}", said.all());
        let example = format!("s3://b/{broken}: HTTP 500");
        for part in ["Of 1 of 4 objects it could not be found out", &example] {
            assert!(said.out.contains(part), "{part} {}", said.all());
        }
    }
}

/// A list that does not say which versions are current names all that may be.
#[test]
fn versions_that_may_be_current_are_looked_at() {
    let signer = Signer::new();
    let list = "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>k</Key>\
                <VersionId>1</VersionId><ETag>e</ETag><Size>1</Size></Version></ListVersionsResult>";
    let store = Store::start_with(move |call, _| match call.operation {
        Operation::ListObjectVersions => Some(Reply::new(200, list)),
        Operation::GetObjectTagging => Some(Reply::new(200, "<Tagging><TagSet/></Tagging>")),
        _ => None,
    });
    store.with(|contents| contents.bucket("b").versioning = Versioning::Enabled);
    let settings = settings(store.url(), ("a", "s"), &signer);
    let said = audit(&["b", "--current-only"], &settings);
    assert!(said.code == 1 && said.out.contains("1 of 1 objects are not"), "{}", said.all());
}

#[test]
fn a_store_that_is_down_ends_the_audit() {
    let signer = Signer::new();
    let down = AtomicBool::new(false);
    let store = Store::start_with(move |call, _| {
        // It goes down with `c`; `a` and `b` were asked for before, however the threads run.
        let before = call.operation == Operation::GetObjectTagging && *call.key < b"c"[..];
        down.fetch_or(*call.key == b"c"[..], Ordering::SeqCst);
        let is_down = down.load(Ordering::SeqCst) && !before;
        is_down.then(|| error(503, "ServiceUnavailable"))
    });
    scripted(&signer, &store, "b", &["a", "b", "c", "d"]);
    let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
    assert_eq!(said.code, 3, "{}", said.all());
    for part in ["the store does not answer", "--after=b\n", "It looked at 2 objects"] {
        assert!(said.out.contains(part), "{part} {}", said.all());
    }
}

/// An object that was overwritten, or scanned, after it was listed is judged as it is now.
#[test]
fn what_changes_meanwhile_is_judged_anew() {
    let signer = Arc::new(Signer::new());
    let store = Store::start_with({
        let signer = Arc::clone(&signer);
        move |call, contents| {
            let first = call.operation == Operation::GetObjectTagging && call.count == 0;
            if first && call.key == b"overwritten" {
                // By a replica that also scanned it.
                let bucket = contents.bucket("b");
                bucket.put(&call.key, Version::new("new"));
                let version = bucket.version_mut(&call.key, None).unwrap();
                let modified = version.modified.unix_timestamp().to_string();
                let fields = vec![version.etag.clone(), modified, "3".to_owned()];
                let key = "overwritten".to_owned();
                let bound = Bound { bucket: "b".to_owned(), key, binds: "eml", fields };
                version.tags = vec![(RECEIPT.into(), signer.sign(&bound, "clean", FRESH))];
            }
            if first && call.key == b"removed" {
                contents.bucket("b").delete(&call.key);
            }
            None
        }
    });
    scripted(&signer, &store, "b", &["a", "overwritten", "removed"]);
    let said = audit(&["b"], &settings(store.url(), ("a", "s"), &signer));
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains("2 of 2.") && said.out.contains("1 objects were removed"));
}

#[test]
fn bytes_that_differ_are_found_with_hash() {
    let (signer, store) = (Signer::new(), Store::start());
    // The receipts of this test name the SHA-256 of `x`.
    scripted(&signer, &store, "b", &["x", "y"]);
    let settings = settings(store.url(), ("a", "s"), &signer);
    assert_eq!(audit(&["b"], &settings).code, 0);
    let said = audit(&["b", "--hash"], &settings);
    assert_eq!(said.code, 1, "{}", said.all());
    let example = "s3://b/y: its bytes have another SHA-256 than its receipt says";
    assert!(said.out.contains(example) && said.out.contains("1 of 2 objects"), "{}", said.all());
}

/// Pages of a thousand objects without end, made on the way.
fn endless(objects: usize) -> Server {
    Server::start_forgetful(move |request| {
        let path = request.path.as_str();
        if path.contains("versioning") {
            return Reply::new(200, "<VersioningConfiguration/>");
        }
        if !path.contains("list-type") {
            return Reply::new(200, "<Tagging><TagSet/></Tagging>");
        }
        let token =
            path.split("continuation-token=").nth(1).and_then(|text| text.split('&').next());
        let first: usize = token.map_or(0, |text| text.parse().unwrap());
        let next = (first + 1000).min(objects);
        let mut contents = String::new();
        for number in first..next {
            write!(
                contents,
                "<Contents><Key>some/folder/object-{number:09}.pdf</Key><Size>1000</Size>\
                 <ETag>&quot;9dd4e461268c8034f5c8564e155c67a6&quot;</ETag>\
                 <LastModified>2026-11-28T08:27:00Z</LastModified></Contents>"
            )
            .unwrap();
        }
        let more = next < objects;
        Reply::new(
            200,
            format!(
                "<ListBucketResult><IsTruncated>{more}</IsTruncated>\
                 <NextContinuationToken>{next}</NextContinuationToken>{contents}</ListBucketResult>"
            ),
        )
    })
}

/// The most memory that an audit of so many objects had, in KiB.
fn peak(objects: usize) -> u64 {
    let (signer, server) = (Signer::new(), endless(objects));
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("x.csv").to_string_lossy().into_owned();
    let settings = settings(server.url(), ("a", "s"), &signer);
    let mut run = command(&["b", "--csv", &csv], &settings).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", run.id());
    let mut peak = 0;
    let code = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(status) = run.try_wait().unwrap() {
            break status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(1));
    assert_eq!(std::fs::read_to_string(&csv).unwrap().lines().count(), objects + 1);
    peak
}

#[test]
fn memory_does_not_grow_with_the_number_of_objects() {
    let (few, many) = (peak(5_000), peak(25_000));
    assert!(many < few + 4 * 1024, "{few} and {many} KiB");
}
