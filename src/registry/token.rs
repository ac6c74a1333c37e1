//! How a registry lets a client in: Basic, or a token from the server that it names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeRef;
use serde::Deserialize;
use ureq::http::{HeaderMap, Method};

use super::credentials::{Credentials, Login, Secret};
use super::error::RegistryError;
use super::transport::{Access, Ask, RequestBody, Transport, unauthorized};
use super::url::{Url, escaped};
use crate::disk::progress::Progress;

/// The largest answer of a token server.
const MAX_TOKEN: u64 = 1 << 20;

/// What a token server answers. The older name is what most send.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// A `Bearer` challenge.
#[derive(Default)]
struct Bearer {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Bearer {
    fn of(challenge: &ChallengeRef<'_>) -> Self {
        let mut bearer = Self::default();
        for (name, value) in &challenge.params {
            let value = Some(value.to_unescaped()).filter(|value| !value.is_empty());
            match name.to_ascii_lowercase().as_str() {
                "realm" => bearer.realm = value.unwrap_or_default(),
                "service" => bearer.service = value,
                "scope" => bearer.scope = value,
                _ => {}
            }
        }
        bearer
    }
}

impl Transport {
    /// The `Authorization` that a 401 asks for.
    pub(super) fn authorize(
        &self,
        ask: &Ask<'_>,
        headers: &HeaderMap,
        login: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Secret, RegistryError> {
        let texts = headers.get_all("www-authenticate").iter().filter_map(|value| value.to_str().ok());
        let texts: Vec<&str> = texts.collect();
        let challenges: Vec<_> =
            texts.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let named = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        if let Some(challenge) = named("Bearer").filter(|_| ask.access != Access::Web) {
            let token = self.token(ask, &Bearer::of(challenge), login, progress)?;
            return Ok(Secret::new(format!("Bearer {}", token.expose())));
        }
        match login.map(|login| &login.login) {
            Some(Login::Password { user, password }) if named("Basic").is_some() => Ok(basic(user, password)),
            _ => Err(unauthorized(ask.at, login)),
        }
    }

    /// A token, with the login if there is one, else as anybody.
    fn token(
        &self,
        ask: &Ask<'_>,
        bearer: &Bearer,
        login: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Secret, RegistryError> {
        let malformed = |reason: &str| RegistryError::Malformed {
            host: ask.at.host().to_owned(),
            what: ask.what.to_owned(),
            reason: reason.to_owned(),
        };
        let realm = Url::parse(&bearer.realm).ok_or_else(|| malformed("its token server has no usable address"))?;
        if !realm.is_allowed(self.options.insecure) {
            return Err(malformed(&format!("it gets its tokens from {}, by plain HTTP", realm.host())));
        }
        // A registry may name its repositories otherwise. Where it does not, it knows less than we do: to look for a
        // blob it wants `pull`, and what comes next is an upload.
        let mut scopes = ask.access.scopes(ask.at.repository());
        let ours = format!("repository:{}:", ask.at.repository());
        if let Some(asked) = bearer.scope.as_ref().filter(|asked| !asked.starts_with(&ours)) {
            scopes[0].clone_from(asked);
        }
        let form;
        let (mut url, mut headers, mut payload, mut authorization) = (realm, Vec::new(), RequestBody::Nothing, None);
        if let Some(Login::Identity(identity)) = login.map(|login| &login.login) {
            let fields = [
                ("grant_type", "refresh_token"),
                ("service", bearer.service.as_deref().unwrap_or_default()),
                ("client_id", "windlass"),
                ("scope", &scopes.join(" ")),
                ("refresh_token", identity.expose()),
            ];
            let fields = fields.map(|(name, value)| format!("{name}={}", escaped(value)));
            form = fields.join("&");
            headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
            payload = RequestBody::Bytes(form.as_bytes());
        } else {
            if let Some(service) = &bearer.service {
                url = url.with("service", service);
            }
            url = scopes.iter().fold(url, |url, scope| url.with("scope", scope));
            if let Some(Login::Password { user, password }) = login.map(|login| &login.login) {
                authorization = Some(basic(user, password));
                url = url.with("account", user);
            }
        }
        let method = if matches!(payload, RequestBody::Nothing) { Method::GET } else { Method::POST };
        let ask = Ask { method, url: url.clone(), headers, payload, stores: false, ..*ask };
        // No redirect is followed from here: a login is in it.
        let response = self.send_once(&ask, &url, authorization.as_ref(), progress)?;
        match response.status().as_u16() {
            200 => {}
            300..=399 => return Err(malformed("its token server sends its clients elsewhere")),
            400 | 401 => return Err(unauthorized(ask.at, login)),
            _ => return Err(self.refusal(url.host(), &format!("a token for {}", ask.what), response, progress)),
        }
        let bytes = self.incoming(&ask, response, progress).all(MAX_TOKEN, "token")?;
        let answer: Answer = serde_json::from_slice(&bytes).unwrap_or_default();
        let token = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
        token.map(Secret::new).ok_or_else(|| malformed("its token server gave no token"))
    }
}

fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))))
}
