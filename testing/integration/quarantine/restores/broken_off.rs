//! A restore is broken off at each of its requests, and finished by the next one.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// How a run is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// The store fails.
    Fault,
    /// The process is killed while it waits for the answer.
    Kill,
}

/// Whether a call is the one at which a run is broken off.
type Step = fn(&Call) -> bool;

/// The requests of a restore at which it can be broken off, in their order.
const STEPS: [(&str, Step); 7] = [
    ("read", |call| call.operation == Operation::GetObject && call.bucket == QUARANTINE),
    ("write", restores),
    ("look", |call| {
        call.operation == Operation::HeadObject && call.bucket == BUCKET && call.key == b"k"
    }),
    ("read back", |call| call.operation == Operation::GetObject && call.bucket == BUCKET),
    ("tie", |call| call.operation == Operation::PutObjectTagging),
    ("remove copy", |call| {
        call.operation == Operation::DeleteObject
            && call.bucket == QUARANTINE
            && call.key.len() == 64
    }),
    ("remove record", |call| {
        call.operation == Operation::DeleteObject && call.key.ends_with(b".json")
    }),
];

/// Whatever a run that broke off had done, the next one finishes it.
#[tokio::test]
async fn a_restore_that_was_broken_off_is_finished_by_the_next() {
    let mut unfinished = 0;
    for (what, step) in STEPS {
        for how in [Break::Fault, Break::Kill] {
            for executed in [true, false] {
                unfinished += u32::from(broken_off(what, step, how, executed).await);
            }
        }
    }
    assert!(unfinished >= 20, "only {unfinished} were broken off");
}

/// Returns whether the first run did not come to its end.
async fn broken_off(what: &str, step: Step, how: Break, executed: bool) -> bool {
    let (armed, reached) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_armed, reach) = (Arc::clone(&armed), Arc::clone(&reached));
    let scene = signing(&[], move |call, contents| {
        let now = is_armed.load(Ordering::Relaxed) && step(call);
        now.then(|| {
            // Once: a repeat by the client is what an attempt that failed looks like.
            if executed && !reach.swap(true, Ordering::Relaxed) {
                contents.answer(call);
            }
            reach.store(true, Ordering::Relaxed);
            match how {
                Break::Fault => store::error(500, "InternalError"),
                Break::Kill => Reply::hang(),
            }
        })
    })
    .await;
    let name = scene.held_from("k", Version::new(eicar()).tag("team", "blue")).await;
    armed.store(true, Ordering::Relaxed);
    let first = match how {
        Break::Fault => scene.quarantine(&["restore", &name]).await.0,
        Break::Kill => {
            let mut child = scene.start(&["restore", &name]).await;
            eventually(what, async || reached.load(Ordering::Relaxed)).await;
            child.kill().unwrap();
            child.wait().unwrap().code()
        }
    };
    armed.store(false, Ordering::Relaxed);
    let case = format!("{what}, {how:?}, executed {executed}");
    // Never neither here nor there.
    let is_there = scene.store.current(BUCKET, "k").is_some();
    assert!(is_there || scene.store.current(QUARANTINE, &name).is_some(), "{case}");
    if first != Some(0) {
        let (code, out, err) = scene.quarantine(&["restore", &name]).await;
        let is_done = err.contains("nothing of this name is in held");
        assert!(code == Some(0) || is_done, "{case}\n{out}{err}");
    }
    let there = scene.store.current(BUCKET, "k").unwrap();
    assert_eq!((there.body, scene.store.versions(BUCKET, "k").len()), (eicar(), 1), "{case}");
    assert!(scene.store.versions(QUARANTINE, &name).is_empty(), "{case}");
    assert!(scene.store.versions(QUARANTINE, format!("{name}.json")).is_empty(), "{case}");
    assert_eq!(scene.tag("k").as_deref(), Some("released"), "{case}");
    assert!(!scene.receipt("k").is_empty(), "{case}");
    first != Some(0)
}

impl Scene {
    /// Starts a command about the quarantine.
    async fn start(&self, arguments: &[&str]) -> Child {
        let settings = [("MINIO_SERVER_URL", self.store.url()), ("QUARANTINE_BUCKET", QUARANTINE)];
        let daemon = Daemon::prepare(&Stack::from_env(), binary(), &settings).await.unwrap();
        let mut command = Command::new(BINARY);
        command.arg("quarantine").args(arguments).env_clear().envs(daemon.env());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}
