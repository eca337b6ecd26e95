//! A connection to a registry: directly or through a proxy, and in TLS that authorities vouch for.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::http::HttpError;
use super::proxy::{Proxies, Proxy, open_tunnel};
use super::url::Url;
use crate::Registries;

/// Makes connections.
pub(super) struct Connector {
    timeout: Duration,
    proxies: Proxies,
    authorities: Vec<PathBuf>,
    /// Made for the first connection in TLS: reading the certificates takes milliseconds.
    tls: Mutex<Option<Arc<ClientConfig>>>,
}

/// What both plain and TLS connections can do.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Connector {
    pub(super) fn new(registries: &Registries, timeout: Duration) -> Connector {
        let (proxies, authorities) = (registries.proxies.clone(), registries.authorities.clone());
        Connector { timeout, proxies, authorities, tls: Mutex::default() }
    }

    /// The proxy to ask for `url`, if not its host itself.
    pub(super) fn proxy(&self, url: &Url) -> Result<Option<Proxy>, HttpError> {
        let host = || url.authority();
        self.proxies.find(url).map_err(|variable| HttpError::NoProxy { host: host(), variable })
    }

    /// Connects to the first address that answers, of `url` or of the proxy. The resolver's own
    /// waits are bounded by resolv.conf(5).
    pub(super) fn connect(&self, url: &Url, proxy: Option<&Proxy>) -> Result<TcpStream, HttpError> {
        let (name, port) = match proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (url.bare_host(), url.port),
        };
        connect_to(name, port, self.timeout).map_err(|source| match proxy {
            Some(proxy) => through(url, proxy, source),
            None => HttpError::Connect { host: url.authority(), source },
        })
    }

    /// Makes of a connection what HTTP is spoken on.
    pub(super) async fn prepare(
        &self,
        url: &Url,
        proxy: Option<&Proxy>,
        mut stream: tokio::net::TcpStream,
    ) -> Result<Box<dyn Wire>, HttpError> {
        if url.plain {
            return Ok(Box::new(stream));
        }
        let silent = |_| HttpError::Silent { host: url.authority(), waited: self.timeout };
        if let Some(proxy) = proxy {
            let opened = open_tunnel(&mut stream, url, proxy);
            let opened = tokio::time::timeout(self.timeout, opened).await.map_err(silent)?;
            opened.map_err(|source| through(url, proxy, source))?;
        }
        let error = |source| HttpError::Tls { host: url.authority(), source };
        let config = self.tls(url)?;
        let name = ServerName::try_from(url.bare_host().to_owned());
        let name = name.map_err(|source| error(io::Error::other(source)))?;
        let shake = TlsConnector::from(config).connect(name, stream);
        match tokio::time::timeout(self.timeout, shake).await.map_err(silent)? {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) if is_no_tls(&source) => Err(HttpError::NotTls { host: url.authority() }),
            Err(source) => Err(error(source)),
        }
    }

    /// TLS that trusts the machine's authorities and the site's.
    fn tls(&self, url: &Url) -> Result<Arc<ClientConfig>, HttpError> {
        let mut made = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(Arc::clone(config));
        }
        let mut roots = read_this_machines_roots();
        for path in &self.authorities {
            add_authorities(&mut roots, path)
                .map_err(|source| HttpError::Authorities { path: path.clone(), source })?;
        }
        if roots.is_empty() {
            return Err(HttpError::NoCertificates { host: url.authority() });
        }
        let config = trust(roots);
        *made = Some(Arc::clone(&config));
        Ok(config)
    }
}

fn through(url: &Url, proxy: &Proxy, source: io::Error) -> HttpError {
    HttpError::Proxy { host: url.authority(), proxy: proxy.to_string(), source }
}

fn connect_to(name: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (name, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(failed) => last = failed,
        }
    }
    Err(last)
}

/// The certificate authorities that this machine trusts. One that cannot be read is left out: the
/// others still work.
fn read_this_machines_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// All certificates of a file that somebody named. Here each must be right, and there must be one.
fn add_authorities(roots: &mut RootCertStore, path: &PathBuf) -> io::Result<()> {
    let before = roots.len();
    let text = std::fs::read(path)?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| io::Error::other(error.to_string()))?;
        roots.add(certificate).map_err(io::Error::other)?;
    }
    if roots.len() == before {
        return Err(io::Error::other("it has no certificate in PEM"));
    }
    Ok(())
}

/// TLS that trusts `roots`.
fn trust(roots: RootCertStore) -> Arc<ClientConfig> {
    // Named here instead of installed for the process, which belongs to the program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("ring supports TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Whether the other side's first bytes were no TLS record.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_some_and(|inner| {
        matches!(inner, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
    })
}
