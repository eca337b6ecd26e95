//! One HTTP request at a time, from a thread that waits for it.
//!
//! hyper speaks HTTP/1.1, rustls TLS; both run on a current-thread runtime that belongs to one
//! response and turns only while its reader is waited for. So nothing runs in the background,
//! memory is bounded by what hyper buffers, and every wait has an end ([`Timeouts`]).
//! Deliberately absent: pooled connections (a pull makes few, large requests), retries (those are
//! `registry.rs`'s), following redirects by itself (each is checked first).

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::body::Body;
use super::url::Url;

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
            | HttpError::Silent { .. }
            | HttpError::Ended { .. }
            | HttpError::Broken { .. } => true,
            HttpError::PlainHttp { .. }
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
    /// Made for the first HTTPS request: reading the certificates takes milliseconds.
    tls: OnceLock<Option<Arc<ClientConfig>>>,
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
    /// Makes a client that speaks plain HTTP with `plain_hosts` alone.
    pub(super) fn new(plain_hosts: &[String], timeouts: Timeouts) -> Http {
        let plain_hosts = plain_hosts.iter().map(|host| {
            let host = host.to_ascii_lowercase();
            host.strip_suffix(":80").map(str::to_owned).unwrap_or(host)
        });
        Http { plain_hosts: plain_hosts.collect(), timeouts, tls: OnceLock::new() }
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
        let request = match ask.form {
            None => Request::get(&url.path),
            Some(_) => Request::post(&url.path)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"),
        };
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
        let stream = self.connect(url)?;
        let answer = runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream);
            let stream = stream.map_err(|error| broken(error.into()))?;
            if url.plain {
                return self.exchange(&host, stream, request).await;
            }
            let stream = self.start_tls(url, stream).await?;
            self.exchange(&host, stream, request).await
        })?;
        let (head, incoming) = answer.into_parts();
        let body = Body::new(runtime, incoming, host, self.timeouts);
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Connects to the first address that answers. The resolver's own waits are bounded by
    /// resolv.conf(5).
    fn connect(&self, url: &Url) -> Result<TcpStream, HttpError> {
        let error = |source| HttpError::Connect { host: url.authority(), source };
        let addresses = (url.bare_host(), url.port).to_socket_addrs().map_err(error)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, self.timeouts.connect) {
                Ok(stream) => {
                    stream.set_nonblocking(true).map_err(error)?;
                    return Ok(stream);
                }
                Err(failed) => last = failed,
            }
        }
        Err(error(last))
    }

    async fn start_tls(
        &self,
        url: &Url,
        stream: tokio::net::TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, HttpError> {
        let host = url.authority();
        let Some(config) = self.tls.get_or_init(|| trust(read_this_machines_roots())) else {
            return Err(HttpError::NoCertificates { host });
        };
        let error = |source| HttpError::Tls { host: url.authority(), source };
        let name = ServerName::try_from(url.bare_host().to_owned());
        let name = name.map_err(|source| error(io::Error::other(source)))?;
        let shake = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        match tokio::time::timeout(self.timeouts.connect, shake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) if is_no_tls(&source) => Err(HttpError::NotTls { host }),
            Ok(Err(source)) => Err(error(source)),
            Err(_) => Err(HttpError::Silent { host, waited: self.timeouts.connect }),
        }
    }

    async fn exchange(
        &self,
        host: &str,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
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

/// The certificate authorities that this machine trusts. One that cannot be read is left out: the
/// others still work.
fn read_this_machines_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// TLS that trusts `roots`; `None` if there are none.
fn trust(roots: RootCertStore) -> Option<Arc<ClientConfig>> {
    if roots.is_empty() {
        return None;
    }
    // Named here instead of installed for the process, which belongs to the program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("ring supports TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}

/// Whether the other side's first bytes were no TLS record.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(|inner| {
        matches!(inner, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::path::Path;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    fn test_certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources/tls");
        let certificate = CertificateDer::from_pem_file(directory.join("certificate.pem"));
        let key = PrivateKeyDer::from_pem_file(directory.join("key.pem"));
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

    fn get(roots: RootCertStore) -> Result<Option<Vec<u8>>, HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/v2/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || serve_one(&listener));
        let http = Http::new(&[], Timeouts::default());
        http.tls.set(trust(roots)).unwrap();
        let answer = http.send(&Url::parse(&url).unwrap(), Ask::whole("*/*"), None);
        let body = answer.and_then(|answer| answer.body.read_small(10));
        server.join().unwrap();
        body
    }

    #[test]
    fn speaks_tls_with_whom_it_trusts() {
        let mut roots = RootCertStore::empty();
        roots.add(test_certificate().0).unwrap();
        assert_eq!(get(roots).unwrap().unwrap(), b"hi");
    }

    /// The same server, and other authorities than its own.
    #[test]
    fn refuses_tls_with_whom_it_does_not_trust() {
        let roots = read_this_machines_roots();
        let error = get(roots).unwrap_err();
        let is_refusal = matches!(error, HttpError::Tls { .. } | HttpError::NoCertificates { .. });
        assert!(is_refusal, "{error:?}");
    }
}
