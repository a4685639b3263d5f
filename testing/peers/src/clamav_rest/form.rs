//! A multipart form, read as it arrives and never held in memory as a whole.

use std::pin::Pin;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, ()>> + Send>>;

pub(super) struct Form {
    body: Body,
    buffer: BytesMut,
    /// Line break, two dashes, boundary.
    delimiter: Vec<u8>,
    inside: bool,
}

/// The next piece of a part's content.
pub(super) enum Piece {
    /// Some bytes of it.
    Data(Bytes),
    /// The part is complete.
    End,
    /// The upload broke off.
    Broken,
}

/// The boundary in the content type of a multipart form; `None` for other types.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = rest.split(';').find_map(|item| item.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

impl Form {
    pub(super) fn new(body: Body, boundary: &str) -> Self {
        // With a line break in front, the first delimiter is found like one that ends a part.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        Self { body, buffer, delimiter: format!("\r\n--{boundary}").into_bytes(), inside: true }
    }

    /// The file name of the next part; `None` after the last. An error when the upload broke off.
    pub(super) async fn next_part(&mut self) -> Result<Option<String>, ()> {
        while self.inside {
            match self.next_piece().await {
                Piece::Data(_) => {}
                Piece::End => break,
                Piece::Broken => return Err(()),
            }
        }
        while self.buffer.len() < 2 {
            self.fill().await?;
        }
        if self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end);
                // The second line break stays in the buffer: the content may be empty, and the
                // delimiter starts with a line break.
                self.buffer.advance(4);
                break String::from_utf8_lossy(&head).into_owned();
            }
            self.fill().await?;
        };
        self.inside = true;
        Ok(Some(file_name(&head)))
    }

    pub(super) async fn next_piece(&mut self) -> Piece {
        loop {
            if let Some(end) = find(&self.buffer, &self.delimiter) {
                if end > 0 {
                    return Piece::Data(self.buffer.split_to(end).freeze());
                }
                self.buffer.advance(self.delimiter.len());
                self.inside = false;
                return Piece::End;
            }
            // The end of the buffer may be the start of the delimiter.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len());
            if sure > 0 {
                return Piece::Data(self.buffer.split_to(sure).freeze());
            }
            if self.fill().await.is_err() {
                return Piece::Broken;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), ()> {
        let more = self.body.next().await.ok_or(())??;
        self.buffer.extend_from_slice(&more);
        Ok(())
    }
}

fn find(within: &[u8], wanted: &[u8]) -> Option<usize> {
    // Delimiters start with a carriage return. Looking for that first is fast on large files.
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = within[from..].iter().position(|byte| *byte == first) {
        if within[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The last component of a part's file name, as in the original.
fn file_name(head: &str) -> String {
    let name = head
        .lines()
        .filter(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))
        .find_map(|line| line.split_once("filename=\"")?.1.split('"').next())
        .unwrap_or_default();
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &'static [u8], step: usize) -> Form {
        let pieces = futures_util::stream::iter(
            text.chunks(step).map(|chunk| Ok(Bytes::from_static(chunk))),
        );
        Form::new(Box::pin(pieces), "B")
    }

    async fn content(form: &mut Form) -> Result<Vec<u8>, ()> {
        let mut all = Vec::new();
        loop {
            match form.next_piece().await {
                Piece::Data(data) => all.extend_from_slice(&data),
                Piece::End => return Ok(all),
                Piece::Broken => return Err(()),
            }
        }
    }

    const TWO: &[u8] =
        b"--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"d/x\"\r\n\r\n\
        one\r\n-two\r\n--B\r\nContent-Disposition: form-data; name=\"g\"\r\n\r\n\r\n--B--\r\n";

    #[tokio::test]
    async fn parts_are_the_same_however_the_bytes_arrive() {
        for step in 1..TWO.len() {
            let mut form = form(TWO, step);
            assert_eq!(form.next_part().await, Ok(Some("x".into())), "step {step}");
            assert_eq!(content(&mut form).await, Ok(b"one\r\n-two".to_vec()), "step {step}");
            assert_eq!(form.next_part().await, Ok(Some(String::new())), "step {step}");
            assert_eq!(form.next_part().await, Ok(None), "step {step}");
        }
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_is_not_a_whole_form() {
        let mut form = form(&TWO[..72], 7);
        assert_eq!(form.next_part().await, Ok(Some("x".into())));
        assert_eq!(content(&mut form).await, Err(()));
        assert_eq!(form.next_part().await, Err(()));
    }
}
