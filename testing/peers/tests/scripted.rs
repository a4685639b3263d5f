//! The scripted servers do what a test says, including errors in the protocol.
#![allow(clippy::disallowed_methods, reason = "the list in clippy.toml is about the daemon")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use peers::scripted::{Reply, Server, tcp};

const SOON: Duration = Duration::from_secs(5);

fn send(server: &Server, request: &str) -> TcpStream {
    let address = server.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn requests_are_counted_recorded_and_answered_by_script() {
    let server = Server::start(|request| match request.count {
        0 => Reply::new(503, "later").header("retry-after", "1"),
        _ => Reply::new(200, request.body.to_vec()),
    });
    let client = reqwest::Client::new();
    let ask = || client.post(format!("{}/a?b", server.url())).body("hello").send();
    let first = ask().await.unwrap();
    assert_eq!(
        (first.status().as_u16(), &first.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    assert_eq!(ask().await.unwrap().text().await.unwrap(), "hello");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        (&*requests[1].method, &*requests[1].path, requests[1].text()),
        ("POST", "/a?b", "hello".into())
    );
}

#[test]
fn a_chunked_body_is_put_together() {
    let server = Server::start(|request| {
        Reply::new(200, request.body.to_vec()).header("connection", "close")
    });
    let request =
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n";
    let mut stream = send(&server, request);
    let mut answer = [0; 256];
    let mut text = String::new();
    while !text.ends_with("abcde") {
        let read = stream.read(&mut answer).unwrap();
        text.push_str(std::str::from_utf8(&answer[..read]).unwrap());
    }
}

#[test]
fn an_early_answer_comes_before_the_body_was_read() {
    let server = Server::start_with_early(|_| Some(Reply::new(413, "no")), |_| Reply::new(200, ""));
    let mut stream = send(&server, "POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\nsome of it");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    let requests = server.wait_for(1, SOON);
    assert!(requests[0].body.is_empty());
}

#[test]
fn half_an_answer_is_shorter_than_it_claims() {
    let server = Server::start(|_| Reply::new(200, "0123456789").half());
    let text = read_all(send(&server, "GET / HTTP/1.1\r\n\r\n"));
    assert!(text.contains("content-length: 10") && text.ends_with("\r\n\r\n01234"), "{text}");
}

#[test]
fn a_dripping_answer_takes_its_time() {
    let server = Server::start(|_| Reply::new(200, "0123").drip(1, Duration::from_millis(50)));
    let start = Instant::now();
    let mut stream = send(&server, "GET / HTTP/1.1\r\nconnection: close\r\n\r\n");
    let mut seen = Vec::new();
    while !seen.ends_with(b"0123") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_hanging_server_lets_go_when_it_is_dropped() {
    let server = Server::start(|_| Reply::hang());
    let stream = send(&server, "GET / HTTP/1.1\r\n\r\n");
    let requests = server.wait_for(1, SOON);
    assert_eq!(requests.len(), 1);
    drop(server);
    assert_eq!(read_all(stream), "");
}

#[test]
fn closing_and_resetting_differ() {
    let server =
        Server::start(
            |request| {
                if request.path == "/close" { Reply::close() } else { Reply::reset() }
            },
        );
    assert_eq!(read_all(send(&server, "GET /close HTTP/1.1\r\n\r\n")), "");
    let mut stream = send(&server, "GET /reset HTTP/1.1\r\n\r\n");
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

fn instream(mut stream: impl Read + Write, chunks: &[&[u8]], end: bool) -> std::io::Result<String> {
    stream.write_all(b"zINSTREAM\0")?;
    for chunk in chunks {
        stream.write_all(&u32::try_from(chunk.len()).unwrap().to_be_bytes())?;
        stream.write_all(chunk)?;
    }
    if end {
        stream.write_all(&[0; 4])?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_scripted_clamd_collects_the_stream_and_answers() {
    let server = tcp::Server::start(|session| {
        let found = session.data.starts_with(b"bad");
        tcp::Act::line(if found { "stream: Test FOUND" } else { "stream: OK" })
    });
    let connect = || TcpStream::connect(server.address()).unwrap();
    assert_eq!(instream(connect(), &[b"ba", b"d"], true).unwrap(), "stream: Test FOUND\0");
    assert_eq!(instream(connect(), &[b"good"], true).unwrap(), "stream: OK\0");
    let sessions = server.wait_for(2, SOON);
    assert_eq!((&*sessions[0].command, sessions[0].prefix), ("INSTREAM", Some('z')));
    assert_eq!((&sessions[0].chunks, sessions[0].terminated), (&vec![2, 1], true));
}

#[test]
fn a_scripted_clamd_answers_before_the_end() {
    let early = |_: &tcp::Session| Some(tcp::Act::line("stream: OK").after_bytes(3));
    let server = tcp::Server::start_unix(early, |_| tcp::Act::close());
    let stream = std::os::unix::net::UnixStream::connect(server.path()).unwrap();
    assert_eq!(instream(stream, &[b"abc"], false).unwrap(), "stream: OK\0");
    assert!(!server.sessions()[0].terminated);
}

#[test]
fn a_scripted_clamd_breaks_off_in_every_way() {
    let act = |session: &tcp::Session| match session.count {
        0 => tcp::Act::close(),
        1 => tcp::Act::reset(),
        _ => tcp::Act::hang(),
    };
    let server = tcp::Server::start(act);
    let connect = || {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream
    };
    assert_eq!(instream(connect(), &[b"x"], true).unwrap(), "");
    let reset = instream(connect(), &[b"x"], true).unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    let hung = instream(connect(), &[b"x"], true).unwrap_err();
    assert_eq!(hung.kind(), std::io::ErrorKind::WouldBlock);
}
