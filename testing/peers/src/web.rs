//! A small HTTP server for the testing services.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::error::{Context, Result};

/// What a handler answers.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Serves one handler on `listener` for ever. When the handler answers `None`, the connection is
/// cut.
pub async fn serve<F, H>(listener: TcpListener, handler: H)
where
    F: Future<Output = Option<Answer>> + Send,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely out of file descriptors, which is temporary.
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { answer.await.ok_or(Cut) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // Clients may disconnect at any time.
            drop(served);
        });
    }
}

/// Makes the server end a connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the handler")
    }
}

impl std::error::Error for Cut {}

/// Binds the address that a service listens on.
///
/// # Errors
/// When the address is in use, or not one of this machine.
pub async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.context(format!("listen on {address}"))
}

/// An answer with a body.
pub fn answer(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    if let Ok(value) = content_type.parse()
        && !content_type.is_empty()
    {
        response.headers_mut().insert("content-type", value);
    }
    response
}

/// The headers of a request whose values are text.
#[must_use]
pub fn headers(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
