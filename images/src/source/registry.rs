//! An image in a registry (`docker://`), read anonymously.
//!
//! OCI distribution-spec v1.1, "Pull". A registry that wants a token is asked for one that anybody
//! may have. Redirects are followed a few times, never from HTTPS to a plain host that is not
//! listed, and without the token when they lead to another host. Resuming and waiting longer
//! between tries belong in [`try_again`], the one place that asks again.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::body::{Body, error_message};
use super::http::{Answer, Http, HttpError};
use super::token::{Challenge, authorization};
use super::url::Url;
use super::{Network, Source, SourceError, Top};
use crate::document::{ACCEPTED, DOCUMENT_BYTES_MAX, Descriptor};
use crate::name::DOCKER_HUB;
use crate::shown::shown;
use crate::{BlobFault, Digest, LayerDescriptor, RegistryName};

/// Times that a request is sent when the registry is busy or the connection breaks.
const TRIES: u32 = 3;

/// Wait before the second try; the third waits twice as long.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Redirects that are followed: registries need one or two.
const REDIRECTS_MAX: usize = 5;

/// Most bytes of a token service's answer; tokens have a few thousand.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// Where Docker Hub's registry is (moby `registry.DefaultV2Registry`).
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// Why a registry did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer came, or it broke off.
    #[error("cannot get {url}")]
    Http {
        /// What was asked for.
        url: String,
        /// Why.
        source: HttpError,
    },
    /// It is not there. The user must name another.
    #[error("the registry has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Not for everybody. The user needs credentials, which this version cannot take.
    #[error("the registry gives {what} only to those who log in, or has none: {message}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: String,
    },
    /// Any other refusal. The registry's operator must act, or time may help.
    #[error("the registry answered {status} to {url}: {message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        url: String,
        /// What the registry says.
        message: String,
    },
    /// The token service's answer has no usable token.
    #[error("the token service {host} gave no usable token")]
    Token {
        /// Host and port.
        host: String,
    },
    /// A redirect that leads nowhere sensible.
    #[error("{url} leads to `{location}`, which is not followed")]
    Redirect {
        /// What was asked for.
        url: String,
        /// The `Location` header, made fit to be shown.
        location: String,
    },
    /// The document is not the one that was asked for.
    #[error("the registry sent another document for {what}")]
    Document {
        /// What was asked for.
        what: String,
        /// How it differs.
        source: BlobFault,
    },
    /// The document is larger than any real one.
    #[error("{what} has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge {
        /// What was asked for.
        what: String,
    },
}

impl RegistryError {
    /// A way out, where there is an obvious one.
    pub(super) fn hint(&self, host: &str) -> Option<String> {
        match self {
            RegistryError::Http { source: HttpError::NotTls { .. }, .. } => Some(format!(
                "if {host} is meant to be reached in plain HTTP, the site's policy must list it \
                 under `registries: insecure:`"
            )),
            RegistryError::Http { source: HttpError::PlainHttp { host }, .. } => Some(format!(
                "the site's policy would have to list {host} under `registries: insecure:`"
            )),
            RegistryError::Unauthorized { .. } => {
                Some("`skopeo copy` can log in and write an archive that is read here".to_owned())
            }
            RegistryError::Http { .. }
            | RegistryError::NotFound { .. }
            | RegistryError::Status { .. }
            | RegistryError::Token { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Document { .. }
            | RegistryError::TooLarge { .. } => None,
        }
    }

    /// Whether asking once more may help.
    fn may_pass(&self) -> bool {
        match self {
            RegistryError::Http { source, .. } => source.may_pass(),
            RegistryError::Status { status, .. } => matches!(status, 429 | 500..=599),
            RegistryError::NotFound { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Token { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Document { .. }
            | RegistryError::TooLarge { .. } => false,
        }
    }
}

/// A repository of a registry.
pub(super) struct Registry {
    http: Http,
    name: RegistryName,
    base: Url,
    /// The token that was last accepted or is about to be tried.
    token: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// Talks to nobody yet.
    pub(super) fn new(name: &RegistryName, network: Network<'_>) -> Registry {
        let http = Http::new(network.plain_hosts, network.timeouts);
        let plain = http.is_plain(&name.host);
        let host = if name.host == DOCKER_HUB { DOCKER_HUB_HOST } else { &name.host };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            Some(_) | None => (host, None),
        };
        let port = port.unwrap_or(if plain { 80 } else { 443 });
        let path = format!("/v2/{}", name.repository);
        let base = Url { plain, host: host.to_owned(), port, path };
        Registry { http, name: name.clone(), base, token: Mutex::new(None) }
    }

    /// Asks for `path` below the repository, again if that may help.
    fn get(&self, path: &str, what: &str) -> Result<Answer, RegistryError> {
        let url = self.url_of(path);
        try_again(|| self.get_with_token(&url, "*/*", what))
    }

    /// As [`Registry::get`], with the whole body: a document of at most [`DOCUMENT_BYTES_MAX`]
    /// bytes, and its media type.
    fn get_document(
        &self,
        path: &str,
        what: &str,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let url = self.url_of(path);
        try_again(|| {
            let answer = self.get_with_token(&url, &ACCEPTED.join(", "), what)?;
            let media_type = media_type(&answer.headers);
            let bytes = answer.body.read_small(DOCUMENT_BYTES_MAX);
            let bytes =
                bytes.map_err(|source| RegistryError::Http { url: url.to_string(), source })?;
            match bytes {
                Some(bytes) => Ok((bytes, media_type)),
                None => Err(RegistryError::TooLarge { what: what.to_owned() }),
            }
        })
    }

    fn url_of(&self, path: &str) -> Url {
        Url { path: format!("{}/{path}", self.base.path), ..self.base.clone() }
    }

    fn get_with_token(&self, url: &Url, accept: &str, what: &str) -> Result<Answer, RegistryError> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut answer = self.follow(url, accept, token.as_ref())?;
        if answer.status == StatusCode::UNAUTHORIZED {
            // None yet, or it has expired: one more, and only one.
            if let Some(token) = self.fetch_token(&answer.headers, token.as_ref())? {
                answer = self.follow(url, accept, Some(&token))?;
            }
        }
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status;
        let message = error_message(answer.body);
        Err(match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned() },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { what: what.to_owned(), message }
            }
            status => {
                RegistryError::Status { status: status.as_u16(), url: url.to_string(), message }
            }
        })
    }

    /// Gets `url`, and what it redirects to. The token goes to the registry's own host alone.
    fn follow(
        &self,
        url: &Url,
        accept: &str,
        token: Option<&HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        let mut url = url.clone();
        let mut location = String::new();
        for _ in 0..=REDIRECTS_MAX {
            let token = token.filter(|_| url.has_origin_of(&self.base));
            let answer = self.http.get(&url, accept, token);
            let answer =
                answer.map_err(|source| RegistryError::Http { url: url.to_string(), source })?;
            if !is_redirect(answer.status) {
                return Ok(answer);
            }
            let header = answer.headers.get(header::LOCATION);
            let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
            location = header.to_owned();
            match url.join(header) {
                Some(next) => url = next,
                None => break,
            }
        }
        // A query may hold a signature that lets anyone read the blob.
        let location = shown(location.split('?').next().unwrap_or_default());
        Err(RegistryError::Redirect { url: url.to_string(), location })
    }

    /// Gets a token as `refused` asks, unless another thread has just got a newer one than `used`.
    fn fetch_token(
        &self,
        refused: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut kept = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref() != used {
            return Ok(kept.clone());
        }
        let challenges = refused.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok()).map(Challenge::parse);
        let bearer = challenges.into_iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Login => None,
        });
        let Some((realm, service)) = bearer else { return Ok(None) };
        let url = Challenge::token_url(&realm, service.as_deref(), &self.name.repository);
        let answer = self.follow(&url, "application/json", None)?;
        let host = realm.authority();
        if answer.status != StatusCode::OK {
            // The registry's own refusal says more.
            return Ok(None);
        }
        let body = answer.body.read_small(TOKEN_BYTES_MAX).ok().flatten().unwrap_or_default();
        let token = authorization(&body).ok_or(RegistryError::Token { host })?;
        *kept = Some(token.clone());
        Ok(Some(token))
    }

    /// Gets a manifest or index by tag or digest.
    fn get_manifest(&self, name: &str, digest: Option<Digest>) -> Result<Top, RegistryError> {
        let what = format!("`{}` in {}", name, self.name.repository);
        let (bytes, media_type) = self.get_document(&format!("manifests/{name}"), &what)?;
        let got = check_digest(&bytes, digest, what)?;
        Ok(Top { bytes, digest: got, media_type })
    }

    fn get_blob(&self, digest: Digest, what: &str) -> Result<Body, SourceError> {
        let answer = self.get(&format!("blobs/{digest}"), what);
        answer.map(|answer| answer.body).map_err(|error| self.error(error))
    }

    fn error(&self, source: RegistryError) -> SourceError {
        SourceError::Registry { host: self.name.host.clone(), source }
    }
}

/// Runs `request` again while that may help.
fn try_again<T>(request: impl Fn() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
    let mut tries = 0;
    loop {
        match request() {
            Err(error) if error.may_pass() && tries + 1 < TRIES => {
                sleep(TRY_AGAIN_AFTER * (1 << tries));
                tries += 1;
            }
            result => return result,
        }
    }
}

/// The digest of `bytes`, which must be `expected` if that is known.
fn check_digest(
    bytes: &[u8],
    expected: Option<Digest>,
    what: String,
) -> Result<Digest, RegistryError> {
    let got = Digest::of(bytes);
    match expected {
        Some(expected) if expected != got => {
            Err(RegistryError::Document { what, source: BlobFault::Content { expected, got } })
        }
        Some(_) | None => Ok(got),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// `Content-Type` without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_owned())
}

impl Source for Registry {
    fn top(&self) -> Result<Top, SourceError> {
        // The reference's digest was validated when it was parsed; its tag then is only a remark.
        let digest = self.name.digest.as_deref().and_then(|digest| digest.parse().ok());
        let name = self.name.digest.as_deref().or(self.name.tag.as_deref()).unwrap_or("latest");
        self.get_manifest(name, digest).map_err(|error| self.error(error))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let name = descriptor.digest.to_string();
        let top = self.get_manifest(&name, Some(descriptor.digest));
        top.map(|top| top.bytes).map_err(|error| self.error(error))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, SourceError> {
        let what = format!("configuration {} in {}", descriptor.digest, self.name.repository);
        let bytes = self.get_document(&format!("blobs/{}", descriptor.digest), &what);
        let bytes = bytes.and_then(|(bytes, _)| {
            check_digest(&bytes, Some(descriptor.digest), what).map(|_| bytes)
        });
        bytes.map_err(|error| self.error(error))
    }

    fn layer(&self, layer: &LayerDescriptor) -> Result<Box<dyn Read + Send>, SourceError> {
        let what = format!("layer {} in {}", layer.digest, self.name.repository);
        Ok(Box::new(self.get_blob(layer.digest, &what)?))
    }
}
