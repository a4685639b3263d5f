//! A scripted clamd, over TCP or a Unix socket.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wire::{Running, Wire, on_tcp, on_unix};

/// What arrived from a client in one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// The command without prefix and terminator: `INSTREAM`, `PING`, ….
    pub command: String,
    /// The prefix it came with, `z` or `n`, or none.
    pub prefix: Option<char>,
    /// The sizes of the chunks that arrived whole.
    pub chunks: Vec<usize>,
    /// Their content.
    pub data: Vec<u8>,
    /// Whether the chunk of length zero arrived that ends the stream.
    pub terminated: bool,
    /// How many connections came before this one.
    pub count: usize,
}

/// When to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// As soon as the command has arrived.
    AtOnce,
    /// After so many bytes of content.
    AfterBytes(usize),
    /// When the client has sent everything.
    AtTheEnd,
}

/// What to do after sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Reset,
    Hang,
    ReadOn,
}

/// What the server does in one connection.
#[derive(Debug, Clone)]
pub struct Act {
    when: When,
    say: Vec<u8>,
    then: Then,
    delay: Duration,
}

impl Act {
    /// Sends these bytes and closes.
    #[must_use]
    pub fn say(bytes: impl Into<Vec<u8>>) -> Self {
        Self { when: When::AtTheEnd, say: bytes.into(), then: Then::Close, delay: Duration::ZERO }
    }

    /// Sends a line with the terminator of clamd's `z` commands.
    #[must_use]
    pub fn line(text: &str) -> Self {
        Self::say(format!("{text}\0"))
    }

    /// Closes without sending anything.
    #[must_use]
    pub fn close() -> Self {
        Self::say("")
    }

    /// Resets the connection (TCP; a Unix socket is closed).
    #[must_use]
    pub fn reset() -> Self {
        Self::say("").then_reset()
    }

    /// Sends nothing and keeps the connection open.
    #[must_use]
    pub fn hang() -> Self {
        Self::say("").then_hang()
    }

    /// After sending: resets the connection.
    #[must_use]
    pub fn then_reset(mut self) -> Self {
        self.then = Then::Reset;
        self
    }

    /// After sending: leaves the connection open and reads no more.
    #[must_use]
    pub fn then_hang(mut self) -> Self {
        self.then = Then::Hang;
        self
    }

    /// After sending early: reads on to the end, then closes.
    #[must_use]
    pub fn then_read_on(mut self) -> Self {
        self.then = Then::ReadOn;
        self
    }

    /// Acts as soon as the command has arrived.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.when = When::AtOnce;
        self
    }

    /// Acts after so many bytes of content, and reads no more than these before.
    #[must_use]
    pub fn after_bytes(mut self, bytes: usize) -> Self {
        self.when = When::AfterBytes(bytes);
        self
    }

    /// Waits before acting.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Early = dyn Fn(&Session) -> Option<Act> + Send + Sync;
type Script = dyn Fn(&Session) -> Act + Send + Sync;

/// The server.
pub struct Server {
    address: Option<SocketAddr>,
    path: Option<(PathBuf, tempfile::TempDir)>,
    running: Running,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl Server {
    /// Listens on TCP; `script` is asked when the client has sent everything.
    #[must_use]
    pub fn start(script: impl Fn(&Session) -> Act + Send + Sync + 'static) -> Self {
        Self::start_with_early(|_| None, script)
    }

    /// As [`Server::start`], but asks `early` first, when only the command has arrived. The act
    /// that it returns is done at the time that the act names.
    #[must_use]
    pub fn start_with_early(
        early: impl Fn(&Session) -> Option<Act> + Send + Sync + 'static,
        script: impl Fn(&Session) -> Act + Send + Sync + 'static,
    ) -> Self {
        let (sessions, play) = player(early, script);
        let (address, running) = on_tcp(play);
        Self { address: Some(address), path: None, running, sessions }
    }

    /// As [`Server::start_with_early`], on a Unix socket.
    #[must_use]
    pub fn start_unix(
        early: impl Fn(&Session) -> Option<Act> + Send + Sync + 'static,
        script: impl Fn(&Session) -> Act + Send + Sync + 'static,
    ) -> Self {
        let (sessions, play) = player(early, script);
        let (path, folder, running) = on_unix(play);
        Self { address: None, path: Some((path, folder)), running, sessions }
    }

    /// Its TCP address.
    ///
    /// # Panics
    /// When it listens on a Unix socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("this server listens on a Unix socket")
    }

    /// Its Unix socket.
    ///
    /// # Panics
    /// When it listens on TCP.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path.as_ref().expect("this server listens on TCP").0
    }

    /// All connections that ended or were acted on.
    ///
    /// # Panics
    /// Never in practice: only when the server itself panicked.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.sessions.lock().expect("no panic while held").clone()
    }

    /// Waits until there are `count` of them.
    ///
    /// # Panics
    /// When they do not come in time.
    #[must_use]
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Session> {
        let end = Instant::now() + limit;
        loop {
            let sessions = self.sessions();
            if sessions.len() >= count {
                return sessions;
            }
            assert!(
                Instant::now() < end,
                "{} of {count} sessions within {limit:?}",
                sessions.len()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.finish();
    }
}

type Player = Arc<dyn Fn(Wire, &Running) + Send + Sync>;

fn player(
    early: impl Fn(&Session) -> Option<Act> + Send + Sync + 'static,
    script: impl Fn(&Session) -> Act + Send + Sync + 'static,
) -> (Arc<Mutex<Vec<Session>>>, Player) {
    let sessions: Arc<Mutex<Vec<Session>>> = Arc::default();
    let (kept, count) = (sessions.clone(), AtomicUsize::new(0));
    let play = move |wire: Wire, running: &Running| {
        let count = count.fetch_add(1, Ordering::SeqCst);
        let keep = |session: &Session| {
            kept.lock().expect("no panic while held").push(session.clone());
        };
        converse(wire, running, count, &early, &script, &keep);
    };
    (sessions, Arc::new(play))
}

/// One connection.
fn converse(
    mut wire: Wire,
    running: &Running,
    count: usize,
    early: &Early,
    script: &Script,
    keep: &dyn Fn(&Session),
) {
    let mut session = Session { count, ..Session::default() };
    if !read_command(&mut wire, &mut session) {
        // No command: a readiness check connects and closes.
        keep(&session);
        return wire.cut();
    }
    let act = early(&session);
    let limit = match act.as_ref().map(|act| act.when) {
        Some(When::AtOnce) => 0,
        Some(When::AfterBytes(bytes)) => bytes,
        _ => usize::MAX,
    };
    if session.command == "INSTREAM" {
        read_stream(&mut wire, &mut session, limit);
    }
    // An early act needs enough bytes from the client. If the client stops earlier, the act is done
    // at the end of what it sent.
    let act = act.unwrap_or_else(|| script(&session));
    perform(wire, running, &act, &mut session, keep);
}

fn perform(
    mut wire: Wire,
    running: &Running,
    act: &Act,
    session: &mut Session,
    keep: &dyn Fn(&Session),
) {
    if act.then != Then::ReadOn {
        keep(session);
    }
    if !running.pause(act.delay) {
        return;
    }
    // An error means that the client is gone, which the test sees on its side.
    drop(wire.write_all(&act.say));
    match act.then {
        // An early act leaves bytes unread. Dropping then sends a reset, as a real server that
        // gives up does.
        Then::Close if session.terminated || session.command != "INSTREAM" => wire.cut(),
        Then::Close => {}
        Then::Reset => wire.reset(),
        Then::Hang => running.hang(),
        Then::ReadOn => {
            read_stream(&mut wire, session, usize::MAX);
            keep(session);
            wire.cut();
        }
    }
}

fn read_command(wire: &mut Wire, session: &mut Session) -> bool {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        match wire.read(&mut byte) {
            Ok(1) if matches!(byte[0], 0 | b'\n') => break,
            Ok(1) => text.push(byte[0]),
            _ => return false,
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    session.prefix = text.chars().next().filter(|first| matches!(first, 'z' | 'n'));
    session.command = String::from(text[session.prefix.map_or(0, char::len_utf8)..].trim_end());
    true
}

/// Reads chunks until the terminator, the end of the connection, or `limit`
/// bytes of content.
fn read_stream(wire: &mut Wire, session: &mut Session, limit: usize) {
    while session.data.len() < limit && !session.terminated {
        let mut length = [0; 4];
        if wire.read_exact(&mut length).is_err() {
            return;
        }
        let Ok(length) = usize::try_from(u32::from_be_bytes(length)) else {
            return;
        };
        if length == 0 {
            session.terminated = true;
            return;
        }
        let wanted = length.min(limit - session.data.len());
        let start = session.data.len();
        let read = Read::by_ref(wire).take(wanted as u64).read_to_end(&mut session.data);
        if read.is_err() || session.data.len() - start < wanted || wanted < length {
            return;
        }
        session.chunks.push(length);
    }
}
