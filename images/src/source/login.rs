//! What a registry that refuses a request is shown the next time: a password, or a token that its
//! token service gives for one, or for nothing.
//!
//! distribution `docs/spec/auth/token.md` and `oauth.md`. Credentials go to the registry's own host
//! and to the token service that it names, because the registry could read them anyway; they follow
//! no redirect to another host (`registry.rs`'s `follow`), and go over plain HTTP to listed hosts
//! alone, as everything does ([`Http::send`](super::http::Http::send)).

use std::sync::{Arc, OnceLock};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::body::error_message;
use super::http::{Answer, Ask};
use super::registry::follow;
use super::registry_error::RegistryError;
use super::retry::retry_after;
use super::token::{Challenge, authorization, basic, refresh_form};
use super::url::Url;
use super::{Network, http::Http};
use crate::credentials::Credential;
use crate::{CredentialError, CredentialFiles, RegistryName};

/// Most bytes of a token service's answer; tokens have a few thousand.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

const JSON: &str = "application/json";

/// Who this user is to one registry; found out when it asks.
pub(super) struct Login {
    files: CredentialFiles,
    name: RegistryName,
    found: OnceLock<Result<Option<Credential>, Arc<CredentialError>>>,
}

impl Login {
    /// Looks at no file yet.
    pub(super) fn new(name: &RegistryName, network: Network<'_>) -> Login {
        let files = network.credentials.clone();
        Login { files, name: name.clone(), found: OnceLock::new() }
    }

    /// The header to ask with after a refusal; `None` if there is nothing better than `used`.
    ///
    /// Credentials that cannot be had count as none here: the image may be one for everybody.
    pub(super) fn answer(
        &self,
        http: &Http,
        refused: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges = refused.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = challenges.filter_map(|value| value.to_str().ok()).map(Challenge::parse);
        match Challenge::best(challenges) {
            Challenge::Bearer { realm, service } => {
                self.fetch_token(http, &realm, service.as_deref())
            }
            Challenge::Basic => Ok(match self.credential() {
                Some(Credential::Login { user, password }) => {
                    Some(basic(user, password)).filter(|header| Some(header) != used)
                }
                Some(Credential::IdentityToken(_)) | None => None,
            }),
            Challenge::Unknown => Ok(None),
        }
    }

    /// The error for a refusal that stays.
    pub(super) fn refusal(&self, what: String, message: String) -> RegistryError {
        match self.found.get() {
            Some(Ok(Some(_))) => RegistryError::Refused { what, message },
            Some(Err(source)) => RegistryError::Credentials { what, source: Arc::clone(source) },
            Some(Ok(None)) | None => RegistryError::Unauthorized { what, message },
        }
    }

    /// Whether a registry or its token service has asked, and there was something to show.
    pub(super) fn has_shown(&self) -> bool {
        matches!(self.found.get(), Some(Ok(Some(_))))
    }

    fn credential(&self) -> Option<&Credential> {
        let found = self.found.get_or_init(|| self.files.find(&self.name).map_err(Arc::new));
        found.as_ref().ok()?.as_ref()
    }

    /// `None` if the service refuses: the registry's own refusal says more.
    fn fetch_token(
        &self,
        http: &Http,
        realm: &Url,
        service: Option<&str>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let repository = &self.name.repository;
        let url = Challenge::token_url(realm, service, repository);
        let ask = Ask::whole(JSON);
        let answer = match self.credential() {
            None => follow(http, &url, ask, None)?.answer,
            Some(Credential::Login { user, password }) => {
                follow(http, &url, ask, Some(&basic(user, password)))?.answer
            }
            Some(Credential::IdentityToken(token)) => {
                let form = refresh_form(token, service, repository);
                post(http, realm, &form)?
            }
        };
        match answer.status {
            StatusCode::OK => {}
            // 400 is how OAuth 2.0 says that a refresh token has ended (RFC 6749, section 5.2).
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(None);
            }
            status => {
                let (status, url) = (status.as_u16(), realm.to_string());
                let retry_after = retry_after(&answer.headers);
                let message = error_message(answer.body);
                return Err(RegistryError::Status { status, url, message, retry_after });
            }
        }
        let body = answer.body.read_small(TOKEN_BYTES_MAX);
        let body = body.map_err(|source| RegistryError::Http { url: realm.to_string(), source })?;
        let token = body.and_then(|body| authorization(&body));
        let token = token.ok_or_else(|| RegistryError::Token { host: realm.authority() })?;
        Ok(Some(token))
    }
}

/// Redirects are not followed: a form with a secret goes where it was meant to go.
fn post(http: &Http, url: &Url, form: &str) -> Result<Answer, RegistryError> {
    let ask = Ask { form: Some(form), ..Ask::whole(JSON) };
    let answer = http.send(url, ask, None);
    answer.map_err(|source| RegistryError::Http { url: url.to_string(), source })
}
