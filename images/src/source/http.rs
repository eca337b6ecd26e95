//! One HTTP request at a time, from a thread that waits for it.
//!
//! hyper speaks HTTP/1.1, rustls TLS; both run on a current-thread runtime that belongs to one
//! response and turns only while its reader is waited for. So nothing runs in the background,
//! memory is bounded by what hyper buffers, and every wait has an end ([`Timeouts`]).
//! Deliberately absent: pooled connections (a pull makes few, large requests), retries (those are
//! `registry.rs`'s), following redirects by itself (each is checked first).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::body::Body;
use super::connect::{Connector, Wire};
use super::url::Url;
use crate::Registries;

/// How long a pull waits before it gives up. None of them bounds a transfer that makes progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be there, TLS included.
    pub connect: Duration,
    /// For the head of an answer, and for each further piece of its body.
    pub answer: Duration,
    /// Over this long a transfer must bring 1 KiB a second on average. Only time spent
    /// waiting counts: a slow disk is not a slow registry.
    pub rate_window: Duration,
    /// Before a request that failed is sent again, at most; each further wait is twice as long.
    pub first_wait: Duration,
    /// For all waits between the tries of one request. A registry that asks to wait for longer is
    /// not waited for.
    pub waits_total: Duration,
}

/// Default of [`Timeouts::first_wait`].
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Default of [`Timeouts::waits_total`]: what a user may bear, and most limits of rate are over.
const WAITS_TOTAL: Duration = Duration::from_secs(120);

impl Default for Timeouts {
    /// Values that a congested uplink still meets: curl's advice for `--speed-time` is 30 s too.
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            rate_window: Duration::from_secs(30),
            first_wait: FIRST_WAIT,
            waits_total: WAITS_TOTAL,
        }
    }
}

/// Why a request brought no answer, or an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Plain HTTP to a host that is not listed. The site must list it, or the registry speak HTTPS.
    #[error("{host} is not listed as a host to speak plain HTTP with")]
    PlainHttp {
        /// Host and port.
        host: String,
    },
    /// The name is unknown or the host does not answer.
    #[error("cannot connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The proxy does not answer, or does not connect. The user or the site must mend it.
    #[error("cannot reach {host} through the proxy {proxy}")]
    Proxy {
        /// Host and port.
        host: String,
        /// Of the proxy.
        proxy: String,
        /// Why.
        source: io::Error,
    },
    /// The variable names no proxy that can be used.
    #[error("cannot reach {host}: {variable} names no proxy that can be used")]
    NoProxy {
        /// Host and port.
        host: String,
        /// The environment variable.
        variable: &'static str,
    },
    /// A file of authorities cannot be used. The site must mend it or the policy that names it.
    #[error("cannot use the certificate authorities in {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something answers, but not in TLS that this machine trusts.
    #[error("cannot set up TLS with {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// HTTPS was spoken and plain HTTP came back.
    #[error("{host} does not speak HTTPS")]
    NotTls {
        /// Host and port.
        host: String,
    },
    /// This machine has no list of certificate authorities.
    #[error("cannot find this machine's certificate authorities to check {host} with")]
    NoCertificates {
        /// Host and port.
        host: String,
    },
    /// Nothing came for too long.
    #[error("{host} sent nothing for {} s", waited.as_secs_f32())]
    Silent {
        /// Host and port.
        host: String,
        /// How long.
        waited: Duration,
    },
    /// Too little came.
    #[error("{host} sent {bytes} bytes in {} s, which is too slow", waited.as_secs_f32())]
    Slow {
        /// Host and port.
        host: String,
        /// How much.
        bytes: u64,
        /// In what time.
        waited: Duration,
    },
    /// The body ended before the blob did.
    #[error("{host} ended after {bytes} bytes")]
    Ended {
        /// Host and port.
        host: String,
        /// How much had come.
        bytes: u64,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("the connection to {host} broke")]
    Broken {
        /// Host and port.
        host: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HttpError {
    /// Whether asking once more may help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            HttpError::Connect { .. }
            | HttpError::Proxy { .. }
            | HttpError::Silent { .. }
            | HttpError::Ended { .. }
            | HttpError::Broken { .. } => true,
            HttpError::PlainHttp { .. }
            | HttpError::NoProxy { .. }
            | HttpError::Authorities { .. }
            | HttpError::Tls { .. }
            | HttpError::NotTls { .. }
            | HttpError::NoCertificates { .. }
            | HttpError::Slow { .. } => false,
        }
    }
}

/// Sends requests.
pub(super) struct Http {
    /// Lower-case, without the port 80.
    plain_hosts: Vec<String>,
    pub(super) timeouts: Timeouts,
    connector: Connector,
}

/// What is asked for, besides where.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) accept: &'a str,
    /// The first byte that is wanted of the body.
    pub(super) from_byte: u64,
    /// A form to post; without one it is a GET.
    pub(super) form: Option<&'a str>,
}

/// An answer whose head has come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl<'a> Ask<'a> {
    /// A GET of a whole.
    pub(super) fn whole(accept: &'a str) -> Ask<'a> {
        Ask { accept, from_byte: 0, form: None }
    }
}

impl Http {
    /// Makes a client that speaks plain HTTP with the listed hosts alone.
    pub(super) fn new(registries: &Registries, timeouts: Timeouts) -> Http {
        let plain_hosts = registries.plain_hosts.iter().map(|host| {
            let host = host.to_ascii_lowercase();
            host.strip_suffix(":80").map(str::to_owned).unwrap_or(host)
        });
        let connector = Connector::new(registries, timeouts.connect);
        Http { plain_hosts: plain_hosts.collect(), timeouts, connector }
    }

    /// Whether plain HTTP may be spoken with `host`, written as in a reference.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.plain_hosts.iter().any(|plain| plain == host.strip_suffix(":80").unwrap_or(host))
    }

    /// Asks for `url` and waits for the head of the answer. Redirects are answers.
    pub(super) fn send(
        &self,
        url: &Url,
        ask: Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, HttpError> {
        let host = url.authority();
        if url.plain && !self.is_plain(&host) {
            return Err(HttpError::PlainHttp { host });
        }
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| HttpError::Broken {
            host: host.clone(),
            source,
        };
        let proxy = self.connector.proxy(url)?;
        // A proxy is asked for the whole URL, and whoever is behind a tunnel is asked directly.
        let as_whole = proxy.as_ref().filter(|_| url.plain);
        let target =
            as_whole.map_or_else(|| url.path.clone(), |_| format!("http://{host}{}", url.path));
        let mut request = Request::get(target);
        if ask.form.is_some() {
            request = request
                .method(Method::POST)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(authorization) = as_whole.and_then(|proxy| proxy.authorization.as_ref()) {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        let mut request = request
            .header(header::HOST, &host)
            .header(header::USER_AGENT, concat!("run-in-container/", env!("CARGO_PKG_VERSION")))
            // A blob's digest is of the bytes as stored: no encoding may come in between.
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::ACCEPT, ask.accept);
        if ask.from_byte > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", ask.from_byte));
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = Full::from(ask.form.unwrap_or_default().to_owned());
        let request = request.body(body).map_err(|error| broken(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| broken(error.into()))?;
        let stream = self.connector.connect(url, proxy.as_ref())?;
        let answer = runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream);
            let stream = stream.map_err(|error| broken(error.into()))?;
            let stream = self.connector.prepare(url, proxy.as_ref(), stream).await?;
            self.exchange(&host, stream, request).await
        })?;
        let (head, incoming) = answer.into_parts();
        let body = Body::new(runtime, incoming, host, self.timeouts);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    async fn exchange(
        &self,
        host: &str,
        stream: Box<dyn Wire>,
        request: Request<Full<Bytes>>,
    ) -> Result<hyper::Response<Incoming>, HttpError> {
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Its end is told through the body; it lives as long as the runtime.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        match tokio::time::timeout(self.timeouts.answer, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                Err(HttpError::Broken { host: host.to_owned(), source: error.into() })
            }
            Err(_) => {
                Err(HttpError::Silent { host: host.to_owned(), waited: self.timeouts.answer })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    fn test_certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(tls_file("certificate.pem"));
        let key = PrivateKeyDer::from_pem_file(tls_file("key.pem"));
        (certificate.unwrap(), key.unwrap())
    }

    /// Answers one request in TLS, and closes as some servers do: without saying so in TLS.
    fn serve_one(listener: &TcpListener) {
        let (certificate, key) = test_certificate();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate], key);
        let mut tls = ServerConnection::new(Arc::new(config.unwrap())).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut stream);
        let mut request = [0; 1024];
        // A client that does not trust the certificate hangs up here.
        if stream.read(&mut request).is_ok_and(|count| count > 0) {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        }
    }

    fn get(authorities: Vec<PathBuf>) -> Result<Option<Vec<u8>>, HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/v2/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || serve_one(&listener));
        let registries = Registries { authorities, ..Registries::default() };
        let http = Http::new(&registries, Timeouts::default());
        let answer = http.send(&Url::parse(&url).unwrap(), Ask::whole("*/*"), None);
        let body = answer.and_then(|answer| answer.body.read_small(10));
        server.join().unwrap();
        body
    }

    fn tls_file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources/tls").join(name)
    }

    #[test]
    fn speaks_tls_with_whom_it_trusts() {
        assert_eq!(get(vec![tls_file("certificate.pem")]).unwrap().unwrap(), b"hi");
    }

    /// The same server, and other authorities than its own.
    #[test]
    fn refuses_tls_with_whom_it_does_not_trust() {
        let error = get(Vec::new()).unwrap_err();
        let is_refusal = matches!(error, HttpError::Tls { .. } | HttpError::NoCertificates { .. });
        assert!(is_refusal, "{error:?}");
    }

    /// A site that names a file means it: the machine's own authorities are not enough then.
    #[test]
    fn refuses_files_that_hold_no_authorities() {
        for name in ["none.pem", "key.pem", "../main.rs"] {
            let error = get(vec![tls_file(name)]).unwrap_err();
            assert!(matches!(error, HttpError::Authorities { .. }), "{error:?}");
        }
    }
}
