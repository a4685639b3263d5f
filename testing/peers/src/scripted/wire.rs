//! Connections of either kind, and the threads that accept them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Handles one connection.
pub(super) type Play = dyn Fn(Wire, &Running) + Send + Sync;

/// One connection, of either kind.
pub(super) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Whether the server still runs; held by everything that waits.
#[derive(Clone, Default)]
pub(super) struct Running {
    over: Arc<AtomicBool>,
    /// A handle on each open connection, to cut those that are blocked in a
    /// read.
    open: Arc<Mutex<HashMap<usize, Wire>>>,
}

impl Running {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sleeps, but not longer than the server runs; returns whether it still runs.
    pub(super) fn pause(&self, length: Duration) -> bool {
        let end = Instant::now() + length;
        while !self.is_over() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(10)));
        }
        false
    }

    /// Waits until the server ends.
    pub(super) fn hang(&self) {
        while self.pause(Duration::from_secs(1)) {}
    }

    fn open(&self) -> MutexGuard<'_, HashMap<usize, Wire>> {
        self.open.lock().expect("no panic while held")
    }

    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
        for (_, wire) in self.open().drain() {
            wire.cut();
        }
    }
}

impl Wire {
    fn twin(&self) -> Option<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().ok().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().ok().map(Self::Unix),
        }
    }

    /// Ends the connection for both sides, even if other handles on it exist.
    pub(super) fn cut(&self) {
        let cut = match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
        // An error means that the other side has closed it already.
        drop(cut);
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(super) fn reset(self) {
        if let Self::Tcp(stream) = &self {
            drop(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
        // A Unix socket sends a reset by itself when it is closed with bytes unread.
        drop(self);
    }
}

impl std::io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl std::io::Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Accepts on a free TCP port.
pub(super) fn on_tcp(play: Arc<Play>) -> (SocketAddr, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    listener.set_nonblocking(true).expect("a fresh socket takes options");
    let running = Running::default();
    accept_all(running.clone(), play, move || {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        Ok(Wire::Tcp(stream))
    });
    (address, running)
}

/// Accepts on a Unix socket in a folder that is removed with its handle.
pub(super) fn on_unix(play: Arc<Play>) -> (PathBuf, tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("clamd.sock");
    let listener = UnixListener::bind(&path).expect("a socket in a fresh folder");
    listener.set_nonblocking(true).expect("a fresh socket takes options");
    let running = Running::default();
    accept_all(running.clone(), play, move || {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        Ok(Wire::Unix(stream))
    });
    (path, folder, running)
}

/// A thread that accepts, and one for each connection.
fn accept_all(
    running: Running,
    play: Arc<Play>,
    accept: impl Fn() -> std::io::Result<Wire> + Send + 'static,
) {
    thread::spawn(move || {
        let mut number = 0;
        while !running.is_over() {
            let Ok(wire) = accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            number += 1;
            running.open().extend(wire.twin().map(|twin| (number, twin)));
            let (running, play) = (running.clone(), play.clone());
            thread::spawn(move || {
                play(wire, &running);
                // Only the last handle closes the socket, with a reset if bytes are unread.
                running.open().remove(&number);
            });
        }
    });
}
