//! One text at one path over HTTP, made anew for each who asks: figures for Prometheus. Whoever may connect may read it,
//! so it holds no secrets, and is served on loopback unless an address is given.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::base::metrics;

/// Connections at once; more wait.
const MAX_CLIENTS: usize = 16;
/// A request's head must be there in this time, and the connection is closed after it, whatever it does.
const HEAD: Duration = Duration::from_secs(5);
/// See [`HEAD`].
const WHOLE: Duration = Duration::from_secs(30);
/// Bytes of a request's head that are kept.
const BUFFER: usize = 16 * 1024;
/// After `accept` failed.
const PAUSE: Duration = Duration::from_millis(200);

type Make = dyn Fn() -> String + Send + Sync;

/// Serves until it is dropped.
pub struct TextServer {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl TextServer {
    /// Serves what `make` makes at `path`. `make` must not block.
    pub async fn bind(
        addr: SocketAddr,
        path: &'static str,
        make: impl Fn() -> String + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self { addr, task: tokio::spawn(accept(listener, path, Arc::new(make))) })
    }

    /// Where it listens; the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for TextServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, path: &'static str, make: Arc<Make>) {
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // The semaphore is never closed.
        let Ok(client) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let make = Arc::clone(&make);
                tokio::spawn(async move {
                    let answer = service_fn(|request: Request<Incoming>| {
                        let response = answer(&request, path, &*make);
                        async { Ok::<_, Infallible>(response) }
                    });
                    let serving = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD)
                        .max_buf_size(BUFFER)
                        .serve_connection(TokioIo::new(stream), answer);
                    if let Ok(Err(error)) = tokio::time::timeout(WHOLE, serving).await {
                        tracing::debug!(%error, "a client of the figures went away");
                    }
                    drop(client);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a client of the figures failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn answer(request: &Request<Incoming>, path: &str, make: &Make) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != path {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if ![Method::GET, Method::HEAD].contains(request.method()) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
        // hyper leaves the body out of the answer to HEAD.
        *response.body_mut() = Full::from(make());
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn say(addr: SocketAddr, request: String) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_of_the_path_is_answered_with_the_text() {
        let server = TextServer::bind(([127, 0, 0, 1], 0).into(), "/metrics", || "x 1\n".into()).await.unwrap();
        let ask =
            |line: &str| say(server.local_addr(), format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let answer = ask("GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nx 1\n"), "{answer}");
        assert!(answer.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(ask("HEAD /metrics").await.ends_with("\r\n\r\n"));
        assert!(ask("GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405 "));
        assert!(ask("GET /metrics/x").await.starts_with("HTTP/1.1 404 "));
        let long = say(server.local_addr(), format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(BUFFER))).await;
        assert!(long.is_empty() || long.starts_with("HTTP/1.1 4"), "{long}");
    }
}
