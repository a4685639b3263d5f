//! A restore is broken off at each of its requests, and finished by the next one.

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::*;

/// How a run is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The store fails.
    Fault,
    /// The process is killed while it waits for the answer.
    Kill,
}

/// Whether a call is the one at which a run is broken off.
type Step = fn(&Call) -> bool;

/// The requests of a restore at which it can be broken off, in their order.
const STEPS: [(&str, Step); 7] = [
    ("read", |call| call.operation == Operation::GetObject && call.key.len() == 64),
    ("write", restores),
    ("look", |call| call.operation == Operation::HeadObject && call.bucket == BUCKET),
    ("read back", |call| call.operation == Operation::GetObject && call.bucket == BUCKET),
    ("tie", |call| call.operation == Operation::PutObjectTagging),
    ("remove copy", |call| call.operation == Operation::DeleteObject && call.key.len() == 64),
    ("remove record", |call| {
        call.operation == Operation::DeleteObject && call.key.ends_with(b".json")
    }),
];

/// A run that is to be broken off.
struct Plan {
    step: Step,
    how: How,
    /// The store carries out what it does not answer.
    executed: bool,
    reached: bool,
}

/// Whatever a run that broke off had done, the next one finishes it.
#[tokio::test]
async fn a_restore_that_was_broken_off_is_finished_by_the_next() {
    let plan = Arc::<Mutex<Option<Plan>>>::default();
    let hook = Arc::clone(&plan);
    let scene = signing(&[], move |call, contents| {
        let mut plan = hook.lock().unwrap();
        let plan = plan.as_mut().filter(|plan| (plan.step)(call))?;
        // Once: what follows are repeats by the client.
        if plan.executed && !plan.reached {
            contents.answer(call);
        }
        plan.reached = true;
        Some(match plan.how {
            How::Fault => store::error(500, "InternalError"),
            How::Kill => Reply::hang(),
        })
    })
    .await;
    let mut unfinished = 0;
    for (what, step) in STEPS {
        for how in [How::Fault, How::Kill] {
            for executed in [true, false] {
                let next = Plan { step, how, executed, reached: false };
                let case = format!("{what} {how:?} executed {executed}");
                unfinished += u32::from(scene.broken_off(&case, &plan, next).await);
            }
        }
    }
    assert!(unfinished >= 20, "only {unfinished} were broken off");
}

impl Scene {
    /// Returns whether the first run did not come to its end.
    async fn broken_off(&self, case: &str, plan: &Mutex<Option<Plan>>, next: Plan) -> bool {
        let name = self.held_from(case, Version::new(eicar()).tag("team", "blue")).await;
        let how = next.how;
        *plan.lock().unwrap() = Some(next);
        let is_reached = || plan.lock().unwrap().as_ref().is_some_and(|plan| plan.reached);
        let first = match how {
            How::Fault => self.quarantine(&["restore", &name]).await.0,
            How::Kill => {
                let mut child = self.start(&["restore", &name]).await;
                eventually(case, async || is_reached()).await;
                child.kill().unwrap();
                child.wait().unwrap().code()
            }
        };
        assert!(is_reached(), "{case}");
        *plan.lock().unwrap() = None;
        // Never neither here nor there.
        let is_there = self.store.current(BUCKET, case).is_some();
        assert!(is_there || self.store.current(QUARANTINE, &name).is_some(), "{case}");
        if first != Some(0) {
            let (code, out, err) = self.quarantine(&["restore", &name]).await;
            let is_done = err.contains("nothing of this name is in held");
            assert!(code == Some(0) || is_done, "{case}\n{out}{err}");
        }
        let there = self.store.current(BUCKET, case).unwrap();
        assert_eq!((there.body, self.store.versions(BUCKET, case).len()), (eicar(), 1), "{case}");
        assert!(self.store.versions(QUARANTINE, &name).is_empty(), "{case}");
        assert!(self.store.versions(QUARANTINE, format!("{name}.json")).is_empty(), "{case}");
        assert_eq!(self.tag(case).as_deref(), Some("released"), "{case}");
        assert!(!self.receipt(case).is_empty(), "{case}");
        first != Some(0)
    }

    /// Starts a command about the quarantine.
    async fn start(&self, arguments: &[&str]) -> Child {
        let settings = [("MINIO_SERVER_URL", self.store.url()), ("QUARANTINE_BUCKET", QUARANTINE)];
        let daemon = Daemon::prepare(&Stack::from_env(), binary(), &settings).await.unwrap();
        let mut command = Command::new(BINARY);
        command.arg("quarantine").args(arguments).env_clear().envs(daemon.env());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}
