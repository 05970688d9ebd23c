//! The read-only page on loopback: `GET /v1/status` (JSON) and `GET /metrics`
//! (OpenMetrics text). Nothing here changes anything.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Connections at once. Monitors need one or two; each holds a few KiB.
pub const MAX_CONNECTIONS: usize = 64;

/// A connection is closed after so long, idle or not: a client that sends its
/// request a byte at a time, or never, frees its place.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that has said nothing at all frees its place so early: a request comes
/// with its connection.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long answers under way may take when the daemon stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// OpenMetrics text, as Prometheus asks for it.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the page shows.
#[async_trait]
pub trait StatusPage: Send + Sync + 'static {
    /// The body of `/v1/status`.
    async fn status(&self) -> Value;
    /// The body of `/metrics`, OpenMetrics text.
    async fn metrics(&self) -> String;
}

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address that others can reach.
    #[error("the status page serves loopback only, not {address}")]
    NotLoopback {
        /// As configured.
        address: SocketAddr,
    },
    /// The port is taken.
    #[error("the status page cannot listen on {address}: another program listens there")]
    PortTaken {
        /// As configured.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("the status page cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl HttpError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLoopback { .. } => {
                "set api.http to 127.0.0.1:PORT; put a proxy in front to show it to others"
            }
            Self::PortTaken { .. } => {
                "set api.http in config.toml to a free port, or to 127.0.0.1:0 for any"
            }
            Self::Listen { .. } => "check api.http in config.toml",
        }
    }
}

/// The page's bound listener.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// Opens the page's port; port 0 takes a free one.
pub async fn bind(address: SocketAddr) -> Result<HttpServer, HttpError> {
    if !address.ip().is_loopback() {
        return Err(HttpError::NotLoopback { address });
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => HttpError::PortTaken { address },
        _ => HttpError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(HttpServer { listener, address })
}

impl HttpServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves the page until `stop`.
pub async fn serve(server: HttpServer, page: Arc<dyn StatusPage>, stop: CancellationToken) {
    let listener = Bounded {
        listener: server.listener,
        free: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    };
    let stopping = stop.clone();
    let serving = axum::serve(listener, router(page))
        .with_graceful_shutdown(async move { stopping.cancelled().await });
    let last_call = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        ended = async { serving.await } => {
            if let Err(error) = ended {
                tracing::warn!(%error, "the status page ended");
            }
        }
        () = last_call => {}
    }
}

fn router(page: Arc<dyn StatusPage>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .fallback(nothing_here)
        .method_not_allowed_fallback(read_only)
        .layer(middleware::from_fn(check_host))
        .with_state(page)
}

async fn status(State(page): State<Arc<dyn StatusPage>>) -> Json<Value> {
    Json(page.status().await)
}

async fn metrics(State(page): State<Arc<dyn StatusPage>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], page.metrics().await)
}

async fn nothing_here() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "nothing here; there are /v1/status and /metrics\n",
    )
}

async fn read_only() -> (
    StatusCode,
    [(header::HeaderName, &'static str); 1],
    &'static str,
) {
    (
        StatusCode::METHOD_NOT_ALLOWED,
        [(header::ALLOW, "GET, HEAD")],
        "this page is read-only; use the snapswarm command to change something\n",
    )
}

/// Refuses requests that came here by another name than loopback's own.
async fn check_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let named_here = request.headers().get_all(header::HOST).iter().count() == 1
        && host.is_some_and(is_loopback_name)
        && request
            .uri()
            .authority()
            .is_none_or(|authority| is_loopback_name(authority.as_str()));
    let mut response = if named_here {
        next.run(request).await
    } else {
        (
            StatusCode::FORBIDDEN,
            "refused: the Host header must name this machine's loopback \
             (localhost, 127.0.0.1 or [::1]), so that no web page reads this through a browser\n",
        )
            .into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Whether `HOST[:PORT]` names loopback.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, "")) => name,
            Some((name, port)) if is_port(port) => name,
            _ => return false,
        },
        None => match host.find(':') {
            Some(colon) if is_port(&host[colon..]) => &host[..colon],
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':')
        .is_some_and(|port| port.parse::<u16>().is_ok())
}

/// A listener that holds at most [`MAX_CONNECTIONS`].
struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = BoundedIo;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedIo, SocketAddr) {
        let place = self.free.clone().acquire_owned().await.ok();
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        let io = BoundedIo {
            stream,
            deadline: Box::pin(sleep_until(Instant::now() + SILENCE_TIMEOUT)),
            has_spoken: false,
            _place: place,
        };
        (io, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends at its deadline and then frees its place.
struct BoundedIo {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    has_spoken: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl BoundedIo {
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BoundedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_deadline(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && !std::mem::replace(&mut self.has_spoken, true) {
            let later = Instant::now() + CONNECTION_TIMEOUT;
            self.deadline.as_mut().reset(later);
            self.poll_deadline(context)?;
        }
        polled
    }
}

impl AsyncWrite for BoundedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_deadline(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_loopback_pass_the_host_check() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1",
            "127.0.0.1:4000",
            "127.9.8.7:1",
            "[::1]",
            "[::1]:9000",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::1",
            "[::1]x",
            "localhost:",
            "localhost:99999",
            "127.0.0.1:80:80",
            "user@127.0.0.1",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_refused_and_so_is_a_taken_port() {
        let open = bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
        assert!(matches!(open, HttpError::NotLoopback { .. }));
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let second = bind(first.address()).await.unwrap_err();
        assert!(matches!(second, HttpError::PortTaken { .. }));
        assert!(second.to_string().contains(&first.address().to_string()));
    }
}
