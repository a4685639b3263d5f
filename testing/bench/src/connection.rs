//! A connection to the store for requests that were signed beforehand.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use peers::error::{Context, Error, Result};

/// Timeout of an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);

/// One connection, opened anew when the store closes it.
pub(super) struct Connection {
    /// `127.0.0.1:PORT`
    store: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    pub(super) fn new(store: &str) -> Self {
        Self { store: store.to_owned(), stream: None }
    }

    /// Sends a request and passes the body of the answer on, as it comes; returns its length.
    ///
    /// # Errors
    /// When the answer is not whole, or another one than 200.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        mut body: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.get_mut().write_all(request).context("store")?;
        let (mut line, mut length, mut kept) = (String::new(), None, true);
        stream.read_line(&mut line).context("store")?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(Error::new(format!("the store answered {}", line.trim_end())));
        }
        loop {
            line.clear();
            let read = stream.read_line(&mut line).context("store")?;
            (read > 0).then_some(()).context("the store hung up")?;
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(": ") {
                Some(("content-length", value)) => length = value.parse::<u64>().ok(),
                Some(("connection", "close")) => kept = false,
                _ if header.is_empty() => break,
                _ => {}
            }
        }
        let length = length.context("an answer without a length")?;
        let mut left = length;
        while left > 0 {
            let got = stream.fill_buf().context("store")?;
            let used = got.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            (used > 0).then_some(()).context("the body broke off")?;
            body(&got[..used])?;
            stream.consume(used);
            left -= used as u64;
        }
        if kept {
            self.stream = Some(stream);
        }
        Ok(length)
    }

    fn connect(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(&self.store).context("store")?;
        stream.set_nodelay(true).context("store")?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context("store")?;
        Ok(BufReader::with_capacity(256 << 10, stream))
    }
}
