//! A client of clamd that behaves as the original's client library.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Where clamd listens.
pub(super) struct Engine {
    pub(super) address: String,
}

/// One INSTREAM session.
pub(super) struct Session {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Engine {
    pub(super) async fn version(&self) -> io::Result<String> {
        self.ask("nVERSION\n").await
    }

    /// Empty when clamd is down: the original answers 200 then too.
    pub(super) async fn stats(&self) -> String {
        match self.ask("nSTATS\n").await {
            Ok(text) => serde_json::json!({"Pools": text}).to_string(),
            Err(error) => serde_json::json!({"Op": "dial", "Err": error.to_string()}).to_string(),
        }
    }

    async fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(command.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.trim_end().to_owned())
    }

    pub(super) async fn begin(&self) -> io::Result<Session> {
        let stream = TcpStream::connect(&self.address).await?;
        let (read, mut write) = stream.into_split();
        write.write_all(b"nINSTREAM\n").await?;
        Ok(Session { read: BufReader::new(read), write })
    }
}

impl Session {
    pub(super) async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        for chunk in data.chunks(64 * 1024) {
            let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
            self.write.write_all(&length.to_be_bytes()).await?;
            self.write.write_all(chunk).await?;
        }
        Ok(())
    }

    /// Ends the stream and reads the verdict: `None` when clamd closes the connection before a
    /// whole line.
    pub(super) async fn finish(mut self) -> io::Result<Option<String>> {
        self.write.write_all(&[0; 4]).await?;
        let mut line = Vec::new();
        let read = self.read.read_until(b'\n', &mut line).await;
        let whole = read.is_ok() && line.pop() == Some(b'\n');
        Ok(whole.then(|| String::from_utf8_lossy(&line).into_owned()))
    }
}
