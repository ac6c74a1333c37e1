//! Names, references, addresses and words: what is taken for one is written and read again as the same, has no control
//! character, and leads nowhere. The first line of the input is the text, the rest of it is read as a file's beginning.

use std::path::Path;

use windlass::internals::model::forms::ollama;
use windlass::internals::model::licence::spdx;
use windlass::internals::model::pin::source::{HUB, PinSource};
use windlass::internals::model::read::shards::ShardName;
use windlass::internals::model::read::sniff::sniff;
use windlass::internals::names::{Name, RelativePath, is_unprintable};
use windlass::internals::nix::store_path::{NarHash, StoreDir, StorePath, nixbase32};
use windlass::internals::oci::digest::Digest;
use windlass::internals::oci::platform::Platform;
use windlass::internals::oci::reference::{self, Reference, Repository};
use windlass::internals::registry::location::Location;
use windlass::internals::spec::service;
use windlass::internals::{secrets, sh};

use super::stays_inside;

/// The text is a value that is written and read again as the same; it has only printed ASCII.
fn again<T: PartialEq + std::fmt::Debug + ToString + std::str::FromStr>(value: &T) {
    let text = value.to_string();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?} was taken");
    assert_eq!(text.parse::<T>().ok().as_ref(), Some(value), "{text}");
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let (line, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let taken = [images(&text), images(line), places(&text), places(line), models(&text), models(line)];
    words(&text);
    let found = sniff(data);
    assert!(!format!("{found} {}", found.advice()).is_empty());
    let licence = spdx(Some(line), Some(rest), None).into_iter().chain(spdx(Some(line), None, Some(rest)));
    for spdx_text in licence {
        let again = spdx(Some(&spdx_text), None, None);
        assert!(again.as_ref() == Some(&spdx_text) || spdx_text == "LicenseRef-other", "{spdx_text} {again:?}");
    }
    taken.contains(&true)
}

fn images(text: &str) -> bool {
    let mut taken = false;
    if let Ok(reference) = text.parse::<Reference>() {
        taken = true;
        again(&reference);
        again(&reference.repository());
        assert!(reference::is_name(&reference), "Podman would not read {reference}");
        // Other tools take it apart alike.
        let location: Location = reference.parse().unwrap();
        assert!(reference.ends_with(&format!(":{}", location.tag().unwrap())), "{reference} {location}");
    }
    if let Ok(repository) = text.parse::<Repository>() {
        taken = true;
        again(&repository);
        stays_inside(Path::new(&*repository.file_name()));
        assert!(!repository.file_name().contains('/'));
    }
    let (name, tag) = text.split_once(' ').unwrap_or((text, "1"));
    if let Ok(reference) = Reference::new(name, tag) {
        taken = true;
        again(&reference);
    }
    if let Ok(location) = text.parse::<Location>() {
        taken = true;
        again(&location);
        assert!(reference::is_registry(location.host()) && reference::is_repository(location.repository()));
        assert_eq!(reference::is_floating(text), reference::is_floating(&location.to_string()), "{text}");
    }
    if let Ok(platform) = text.parse::<Platform>() {
        taken = true;
        again(&platform);
        assert_eq!(platform.clone().canonical(), platform.clone().canonical().canonical());
    }
    taken
}

fn places(text: &str) -> bool {
    let mut taken = false;
    if let Ok(name) = Name::new(text) {
        taken = true;
        again_as_json(&name);
        stays_inside(Path::new(&*name));
        assert!(!name.contains('/') && !name.starts_with('-') && shlex::split(&name) == Some(vec![name.to_string()]));
    }
    if let Ok(path) = RelativePath::new(text) {
        taken = true;
        again_as_json(&path);
        stays_inside(&path);
        assert!(!text.contains(is_unprintable));
    }
    if let Ok(store) = StoreDir::new(text) {
        taken = true;
        assert!(store.as_str().starts_with('/') && !text.chars().any(char::is_control));
    }
    let store = StoreDir::default();
    if let Ok(path) = store.parse(text) {
        taken = true;
        stays_inside(Path::new(path.base_name()));
        assert_eq!(store.display(&path), text);
        assert_eq!(store.scan(text).into_iter().collect::<Vec<_>>(), [path]);
    }
    if let Ok((path, below)) = store.parse_inside(text) {
        taken = true;
        assert!(store.display(&path).len() <= text.len() && !below.split('/').any(|part| part == ".."));
    }
    if let Ok(path) = StorePath::from_base_name(text) {
        taken = true;
        assert_eq!(format!("{}-{}", path.hash_part(), path.name()), text);
    }
    if let Some(bytes) = nixbase32::decode(text) {
        assert_eq!(nixbase32::encode(&bytes), text);
    }
    if let Ok(hash) = text.parse::<NarHash>() {
        taken = true;
        again(&hash);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        taken = true;
        again(&digest);
        assert_eq!(digest.to_string(), text);
    }
    taken
}

fn models(text: &str) -> bool {
    let mut taken = false;
    if let Ok(name) = ollama::OllamaName::parse(text) {
        taken = true;
        stays_inside(Path::new(&name.path()));
        assert_eq!(ollama::OllamaName::parse(&name.to_string()).unwrap(), name);
    }
    if let Some(shard) = ShardName::parse(text) {
        taken = true;
        assert_eq!(shard.sibling(shard.number), text);
    }
    if let Ok(source) = PinSource::parse(text, HUB) {
        taken |= !matches!(source, PinSource::Local(_));
        let _ = source.is_floating();
        if let Some(name) = source.default_name() {
            stays_inside(Path::new(Name::new(name).unwrap().as_ref()));
        }
        if let PinSource::Hub(hub) = &source {
            let spelt = hub.to_string();
            assert_eq!(PinSource::parse(&spelt, HUB).ok().as_ref(), Some(&source), "{spelt}");
            hub.file.iter().for_each(|file| stays_inside(Path::new(file)));
            stays_inside(Path::new(&hub.repo));
        }
        if let PinSource::Web(address) = &source {
            assert!(address.starts_with("https://") || address.starts_with("http://"), "{address}");
            assert!(!address.chars().any(|c| c.is_control() || c.is_whitespace()), "{address:?}");
        }
    }
    taken
}

/// What is quoted for a shell is the same words there.
fn words(text: &str) {
    let words: Vec<String> = text.split('\n').map(|word| word.replace('\0', "")).collect();
    let line = sh::line(words.iter().map(String::as_str));
    assert_eq!(shlex::split(&line), Some(words), "{line}");
    let whole = text.replace('\0', "");
    assert_eq!(shlex::split(&sh::word(text)), Some(vec![whole]));
    if let Some(words) = secrets::values::words(text) {
        let quoted = sh::line(words.iter().map(String::as_str));
        let clean: Vec<String> = words.iter().map(|word| word.replace('\0', "")).collect();
        assert_eq!(secrets::values::words(&quoted), Some(clean), "{quoted}");
    }
    let (ip, host, container) = service::split_port(text);
    assert!(ip.len() + host.len() <= text.len() && container.is_none_or(|port| port.len() <= text.len()));
    if service::is_time(text) {
        assert!(service::seconds(text).is_some() || text.len() > 9, "{text}");
    }
}

fn again_as_json<T: PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned>(value: &T) {
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value);
}
