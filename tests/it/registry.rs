//! The client against a real registry: what goes in comes out, and only what is missing is moved.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;
use windlass::internals::registry::blobs::Fetched;
use windlass::internals::registry::client::RegistryClient;
use windlass::internals::registry::credentials::Secret;
use windlass::internals::registry::error::RegistryError;
use windlass::internals::registry::location::Location;
use windlass::internals::registry::options::{ProxyOptions, RegistryOptions, Waits};

use crate::bad_registry::{Answer, BadRegistry};
use crate::env::{Env, run_ok};
use crate::registry_server::RealRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Options for a registry on loopback, with little patience.
pub(crate) fn impatient() -> RegistryOptions {
    let waits = Waits { stall: Duration::from_millis(700), ..Waits::default() };
    RegistryOptions {
        insecure: true,
        retries: 2,
        max_wait: Duration::from_millis(60),
        waits,
        ..RegistryOptions::default()
    }
}

pub(crate) fn client() -> RegistryClient {
    RegistryClient::new(impatient()).unwrap()
}

pub(crate) fn at(host: &str, repository: &str) -> Location {
    Location::new(host, repository).unwrap()
}

/// Bytes that look random and are always the same.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let blocks = (0_u64..).flat_map(|number| *Digest::of(&number.to_le_bytes()).as_bytes());
    blocks.take(size).collect()
}

/// An index of one image with one layer of these bytes, pushed as `1.0`. Gives back the bytes of index and manifest.
pub(crate) fn push_image(client: &RegistryClient, at: &Location, layer: &[u8]) -> [Vec<u8>; 2] {
    let progress = Progress::new();
    let digest = Digest::of(layer);
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest.to_string()] } });
    let config = config.to_string().into_bytes();
    for blob in [layer, config.as_slice()] {
        let write = |out: &mut (dyn std::io::Write + Send)| out.write_all(blob);
        client.push_blob(at, Digest::of(blob), blob.len() as u64, &write, &progress).unwrap();
    }
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len() }] });
    let manifest = manifest.to_string().into_bytes();
    let digest = client.push_manifest(at, &Digest::of(&manifest).to_string(), MANIFEST, &manifest, &progress).unwrap();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{ "mediaType": MANIFEST, "digest": digest,
        "size": manifest.len(), "platform": { "architecture": "amd64", "os": "linux" } }] });
    let index = index.to_string().into_bytes();
    client.push_manifest(at, "1.0", INDEX, &index, &progress).unwrap();
    [index, manifest]
}

#[test]
fn what_is_pushed_is_pulled_and_read_by_others() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let (client, at, progress) = (client(), at(&registry.host, "team/app"), Progress::new());
    let layer = noise(3_000_000);
    let digest = Digest::of(&layer);
    assert!(!client.has_blob(&at, digest, 3_000_000, &progress).unwrap());
    let [index, manifest] = push_image(&client, &at, &layer);
    assert!(client.has_blob(&at, digest, 3_000_000, &progress).unwrap());
    assert!(!client.has_blob(&at, digest, 3_000_001, &progress).unwrap(), "of another size it is not the blob");

    let head = client.head(&at, "1.0", &progress).unwrap();
    let media_type = head.media_type.as_deref();
    assert_eq!((head.digest, media_type, head.size), (Some(Digest::of(&index)), Some(INDEX), Some(index.len() as u64)));
    let raw = client.manifest(&at, "1.0", &progress).unwrap();
    assert_eq!((raw.digest, raw.media_type.as_str(), &raw.bytes), (Digest::of(&index), INDEX, &index));
    let raw = client.manifest(&at, &Digest::of(&manifest).to_string(), &progress).unwrap();
    assert_eq!((raw.media_type.as_str(), &raw.bytes), (MANIFEST, &manifest));
    assert_eq!(client.blob(&at, digest, 3_000_000, &progress).unwrap(), layer);

    let name = format!("docker://{}/team/app:1.0", registry.host);
    let inspect = ["inspect", "--tls-verify=false", "--raw", &name];
    assert_eq!(run_ok(Command::new("skopeo").args(inspect)).into_bytes(), index);

    for missing in ["2.0", &Digest::of(b"nothing").to_string()] {
        for error in
            [client.head(&at, missing, &progress).unwrap_err(), client.manifest(&at, missing, &progress).unwrap_err()]
        {
            assert!(error.is_gone() && error.to_string().contains("/team/app"), "{error}");
        }
    }
}

#[test]
fn blobs_are_fetched_once_and_gone_on_with() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let (client, at) = (client(), at(&registry.host, "app"));
    let layer = noise(2_000_000);
    let (digest, size) = (Digest::of(&layer), 2_000_000);
    push_image(&client, &at, &layer);
    let (to, part) = (env.path("blob"), env.path("blob.part"));
    let fetch = |expected: (u64, u64)| {
        let progress = Progress::new();
        progress.expect(size);
        let Fetched { bytes_from_network, resumed_from, .. } =
            client.fetch_blob(&at, digest, size, &to, &progress).unwrap();
        assert_eq!((bytes_from_network, resumed_from), expected);
        assert_eq!((progress.network(), progress.done()), (expected.0, size));
        assert!(std::fs::read(&to).unwrap() == layer && !part.exists());
    };
    fetch((size, 0));
    // It is there.
    fetch((0, size));
    // A run before this one was stopped.
    std::fs::remove_file(&to).unwrap();
    std::fs::write(&part, &layer[..1_500_000]).unwrap();
    fetch((500_000, 1_500_000));
    // Stopped between the last byte and the name.
    std::fs::rename(&to, &part).unwrap();
    fetch((0, size));
    // Damaged where it lies.
    std::fs::write(&to, noise(1_999_999)).unwrap();
    fetch((size, 0));

    // Several at once, of which one does it.
    std::fs::remove_file(&to).unwrap();
    let fetched = std::thread::scope(|scope| {
        let fetch = || client.fetch_blob(&at, digest, size, &to, &Progress::new()).unwrap().bytes_from_network;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    assert!(fetched == size && std::fs::read(&to).unwrap() == layer && !part.exists(), "{fetched}");
}

#[test]
fn blobs_are_mounted_from_another_repository() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let (client, progress) = (client(), Progress::new());
    let [from, to] = ["a/from", "b/to"].map(|name| at(&registry.host, name));
    let layer = noise(100_000);
    push_image(&client, &from, &layer);
    let sent = progress.network();
    assert!(client.mount_blob(&to, Digest::of(&layer), "a/from", &progress).unwrap());
    assert!(client.has_blob(&to, Digest::of(&layer), 100_000, &progress).unwrap());
    assert_eq!(progress.network(), sent);
    let other = Digest::of(b"of nobody");
    assert!(!client.mount_blob(&to, other, "a/from", &progress).unwrap());
    assert!(!client.has_blob(&to, other, 9, &progress).unwrap());
}

#[test]
fn uploads_that_are_not_what_they_say_are_refused() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let (client, at, progress) = (client(), at(&registry.host, "app"), Progress::new());
    let bytes = noise(400_000);
    let push = |digest: Digest, size: u64| {
        let write = |out: &mut (dyn std::io::Write + Send)| out.write_all(&bytes);
        client.push_blob(&at, digest, size, &write, &progress).unwrap_err().to_string()
    };
    let (right, wrong) = (Digest::of(&bytes), Digest::of(b"other"));
    assert!(push(wrong, 400_000).contains(" answered 400 for blob sha256:"));
    assert!(push(right, 399_999).ends_with("there is more than the 399999 bytes announced"));
    assert!(push(right, 200_000).ends_with("there is more than the 200000 bytes announced"));
    assert!(push(right, 400_001).ends_with("there is less than the 400001 bytes announced"));
    let write = |_: &mut (dyn std::io::Write + Send)| Err(std::io::Error::other("a file went away"));
    let error = client.push_blob(&at, right, 400_000, &write, &progress).unwrap_err();
    assert!(
        matches!(&error, RegistryError::Source { .. }) && error.to_string().ends_with(": a file went away"),
        "{error}"
    );
    assert!(!client.has_blob(&at, right, 9, &progress).unwrap());
    assert!(!client.has_blob(&at, wrong, 9, &progress).unwrap());
    let error = client.push_manifest(&at, &wrong.to_string(), MANIFEST, b"{}", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
}

#[test]
fn a_mirror_that_pulls_through_is_a_registry_like_any_other() {
    let env = Env::new();
    let upstream = RealRegistry::start(&env);
    let (client, progress) = (client(), Progress::new());
    let layer = noise(300_000);
    let [index, _] = push_image(&client, &at(&upstream.host, "team/app"), &layer);
    let mirror = RealRegistry::mirror_of(&env, &upstream);
    let there = at(&mirror.host, "team/app");
    assert_eq!(client.manifest(&there, "1.0", &progress).unwrap().bytes, index);
    let fetched = client.fetch_blob(&there, Digest::of(&layer), 300_000, &env.path("blob"), &progress).unwrap();
    assert_eq!(fetched.bytes_from_network, 300_000);
    let error = client.manifest(&there, "2.0", &progress).unwrap_err();
    assert!(error.is_gone(), "{error}");
}

#[test]
fn a_registry_that_is_down_is_told_and_not_asked_again_and_again() {
    let env = Env::new();
    let mut registry = RealRegistry::start(&env);
    let (client, at, progress) = (client(), at(&registry.host, "app"), Progress::new());
    push_image(&client, &at, b"layer");
    registry.stop();
    let error = client.head(&at, "1.0", &progress).unwrap_err();
    assert!(matches!(&error, RegistryError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().starts_with(&format!("{} cannot be reached: ", registry.host)), "{error}");
    let start = Instant::now();
    client.head(&at, "1.0", &progress).unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
}

#[test]
fn plain_http_is_for_this_machine_alone() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    let progress = Progress::new();
    let error = client().head(&at("registry.example:5000", "app"), "1", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::Insecure { .. }), "{error}");
    // And where it was not asked for, it is not fallen back to.
    let safe = RegistryClient::new(RegistryOptions { insecure: false, ..impatient() }).unwrap();
    let error = safe.head(&at(&registry.host, "app"), "1", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::PlainHttp { here: true, .. }), "{error:?}");
    assert!(error.to_string().ends_with("answers in plain HTTP; say so with --insecure"), "{error}");
    // A certificate counts when it is given, and only that one.
    let (registry, certificate) = RealRegistry::with_tls(&env);
    let at = at(&registry.host, "app");
    let error = safe.head(&at, "1", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }) && error.to_string().contains("certificate"), "{error:?}");
    let known =
        RegistryClient::new(RegistryOptions { insecure: false, ca_file: Some(certificate), ..impatient() }).unwrap();
    push_image(&known, &at, b"layer");
    assert_eq!(known.blob(&at, Digest::of(b"layer"), 5, &progress).unwrap(), b"layer");
    for (text, reason) in [("", "it has no certificate"), ("-----BEGIN", "it has no certificate")] {
        let ca_file = Some(env.write("ca.pem", text));
        let error = RegistryClient::new(RegistryOptions { ca_file, ..impatient() }).unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error}");
    }
    assert!(RegistryClient::new(RegistryOptions { ca_file: Some(env.path("missing.pem")), ..impatient() }).is_err());
}

#[test]
fn https_goes_by_the_proxy_and_loopback_does_not() {
    let proxy = BadRegistry::start(|_, _| Answer::new(403));
    let url = Some(Secret::new(format!("http://me:hunter2@{}", proxy.host)));
    let options = |except: &str| RegistryOptions {
        insecure: false,
        retries: 0,
        waits: Waits { connect: Duration::from_secs(2), ..impatient().waits },
        proxy: ProxyOptions { url: url.clone(), except: vec![except.to_owned()] },
        ..impatient()
    };
    let progress = Progress::new();
    let (far, near) = (at("registry.invalid", "app"), at("127.0.0.1:1", "app"));
    let client = RegistryClient::new(options("other.invalid")).unwrap();
    let error = client.head(&far, "1", &progress).unwrap_err();
    assert!(
        matches!(&error, RegistryError::Unreachable { .. }) && error.to_string().contains("the proxy says"),
        "{error:?}"
    );
    assert!(!format!("{error:?} {client:?}").contains("hunter2"));
    assert_eq!(proxy.log(), ["CONNECT registry.invalid:443"]);
    assert!(proxy.asked()[0].header("proxy-authorization").is_some());

    client.head(&near, "1", &progress).unwrap_err();
    RegistryClient::new(options(".invalid")).unwrap().head(&far, "1", &progress).unwrap_err();
    assert_eq!(proxy.asked().len(), 1);
    let bad = RegistryOptions { proxy: ProxyOptions { url: Some(Secret::new("::")), except: vec![] }, ..impatient() };
    assert!(matches!(RegistryClient::new(bad), Err(RegistryError::Proxy)));
}
