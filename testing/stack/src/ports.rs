//! Free ports on the loopback interface.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

use uuid::Uuid;

/// Ports that this process has already chosen: they may be free because they are not bound yet.
static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nothing listens on.
///
/// From below the range that the kernel uses for outgoing connections, so that it is still free
/// when a killed service is restarted on it.
///
/// # Panics
/// When the machine has no free port at all.
#[must_use]
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("no panic while held");
    for _ in 0..200 {
        let bytes = Uuid::new_v4().into_bytes();
        let port = 12_000 + u16::from_be_bytes([bytes[0], bytes[1]]) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return port;
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
