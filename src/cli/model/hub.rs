//! What every verb that fetches models shares: Hugging Face's address and the user's token, as its own tools find them, and
//! where files are kept meanwhile.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::failure::{Context, Result, environment};
use crate::cli::host::nix_places;
use crate::cli::registry::RegistryArgs;
use crate::cli::upstream::{home, key};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::model::pin::add::Adder;
use crate::model::pin::hub::Hub;
use crate::model::pin::source::HUB;
use crate::nix::store::NixStore;
use crate::registry::credentials::Secret;
use crate::registry::web::{Web, host_of};

/// All that a run needs, held for [`Adder`].
#[derive(Debug)]
pub(super) struct HubSession {
    endpoint: String,
    web: Web,
    token: bool,
    pub(super) store: NixStore,
    cache: PathBuf,
    pub(super) roots: PathBuf,
}

impl HubSession {
    /// For the lock at this path.
    pub(super) fn new(registry: &RegistryArgs, lock: &Path) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let endpoint = variable("HF_ENDPOINT").map_or_else(|| HUB.to_owned(), |it| it.to_string_lossy().into_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = host_of(&endpoint)
            .ok_or_else(|| environment(format!("HF_ENDPOINT is '{endpoint}': expected an address as {HUB}")))?;
        let token = token(variable)?;
        let mut options = registry.options(false);
        let has_token = token.is_some();
        options.tokens.extend(token.map(|token| (host, token)));
        Ok(Self {
            web: Web::new(&options)?,
            endpoint,
            token: has_token,
            store: NixStore::new(&nix_places())?,
            cache: home("XDG_CACHE_HOME", ".cache")?.join("windlass/models"),
            roots: home("XDG_STATE_HOME", ".local/state")?.join("windlass/models/roots").join(key(lock)?),
        })
    }

    pub(super) fn adder<'a>(&'a self, progress: &'a Progress) -> Adder<'a> {
        let hub = Hub { endpoint: &self.endpoint, web: &self.web, token: self.token };
        Adder { hub, store: &self.store, cache: &self.cache, roots: &self.roots, progress }
    }
}

/// The user's token, where Hugging Face's own tools find it.
fn token(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Secret>> {
    let given = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| variable(name));
    let text = match given {
        Some(token) => token.into_string().ok(),
        None => {
            let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
                let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
                let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
                Some(cache.join("huggingface"))
            });
            let file = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
            let Some(file) = file else { return Ok(None) };
            match bounded::text(&file, Cap::Settings) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                read => Some(read.with_context(|| format!("read the token in {}", file.display()))?),
            }
        }
    };
    let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(text.map(Secret::new))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_token_is_where_hugging_face_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for (name, text) in [("hf/token", "of-home\n"), ("huggingface/token", " of-cache "), ("mine", "of-path")] {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), text).unwrap();
        }
        let found = |variables: &[(&str, String)]| {
            token(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())).unwrap()
        };
        let is = |text: &str| Some(Secret::new(text));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("HOME", path("none"))]), None);
        let cache = ("XDG_CACHE_HOME", path(""));
        assert_eq!(found(std::slice::from_ref(&cache)), is("of-cache"));
        let home = ("HF_HOME", path("hf"));
        assert_eq!(found(&[cache.clone(), home.clone()]), is("of-home"));
        let file = ("HF_TOKEN_PATH", path("mine"));
        assert_eq!(found(&[cache.clone(), home, file.clone()]), is("of-path"));
        assert_eq!(found(&[cache, file, ("HF_TOKEN", "given".to_owned())]), is("given"));
        assert_eq!(format!("{:?}", found(&[("HF_TOKEN", "given".to_owned())])), "Some((secret))");
    }
}
