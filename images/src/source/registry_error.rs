//! Why a registry did not give an image, in words for who must act.

use std::sync::Arc;
use std::time::Duration;

use super::http::HttpError;
use crate::document::DOCUMENT_BYTES_MAX;
use crate::{BlobFault, CredentialError};

/// Why a registry did not give an image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The site does not want any to be asked. The site must act, or the user use what is there.
    #[error("the site's policy forbids asking registries (`registries: offline`)")]
    Offline,
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
    /// Not for everybody, and this user has no credentials for this registry. The user must log in.
    #[error("the registry gives {what} only to those who log in, or has none: {message}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: String,
    },
    /// Not for this user. The user must log in anew, or the image's owner give access.
    #[error(
        "the registry does not give {what} to the user who is logged in, or has none: \
        {message}"
    )]
    Refused {
        /// What was asked for.
        what: String,
        /// What the registry says.
        message: String,
    },
    /// Not for everybody, and this user's credentials cannot be had. The user must mend them.
    #[error("the registry gives {what} only to those who log in")]
    Credentials {
        /// What was asked for.
        what: String,
        /// Why there are none. Shared: threads that fetch layers find out once.
        source: Arc<CredentialError>,
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
        /// How long it asks to wait.
        retry_after: Option<Duration>,
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
            RegistryError::Offline => Some(
                "`run-in-container images list` shows what is here; an image can be brought as a \
                 file: docker-archive:, oci-archive:, sif:"
                    .to_owned(),
            ),
            RegistryError::Http { source: HttpError::NoProxy { variable, .. }, .. } => {
                Some(format!("write {variable} as http://HOST:PORT; other proxies are not used"))
            }
            RegistryError::Http { source: HttpError::NotTls { .. }, .. } => Some(format!(
                "if {host} is meant to be reached in plain HTTP, the site's policy must list it \
                 under `registries: insecure:`"
            )),
            RegistryError::Http { source: HttpError::PlainHttp { host }, .. } => Some(format!(
                "the site's policy would have to list {host} under `registries: insecure:`"
            )),
            RegistryError::Unauthorized { .. } => Some(format!(
                "log in with `podman login {host}` or `docker login {host}`: what they write is \
                 read here"
            )),
            RegistryError::Refused { .. } => Some(format!(
                "log in anew with `podman login {host}` or `docker login {host}`, or ask the \
                 image's owner for access"
            )),
            RegistryError::Credentials { .. } => Some(format!(
                "mend that, or log in anew with `podman login {host}` or `docker login {host}`"
            )),
            RegistryError::Status { retry_after: Some(wait), .. } => {
                Some(format!("{host} asks to wait for {} s; try again then", wait.as_secs()))
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

    /// How long the registry asks to wait before it is asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let RegistryError::Status { retry_after, .. } = self else { return None };
        *retry_after
    }

    /// Whether asking once more may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            RegistryError::Http { source, .. } => source.may_pass(),
            RegistryError::Status { status, .. } => matches!(status, 429 | 502..=504),
            RegistryError::NotFound { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Refused { .. }
            | RegistryError::Credentials { .. }
            | RegistryError::Token { .. }
            | RegistryError::Redirect { .. }
            | RegistryError::Document { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Offline => false,
        }
    }
}
