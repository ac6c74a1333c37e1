//! The client against a registry that misbehaves: each fault has its own error, and leaves nothing behind.

use std::time::{Duration, Instant};

use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;
use windlass::internals::registry::client::RegistryClient;
use windlass::internals::registry::error::RegistryError;
use windlass::internals::registry::options::{RegistryOptions, Waits};

use crate::bad_registry::{Answer, Asked, BadRegistry};
use crate::env::Env;
use crate::registry::{at, client, impatient, noise};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// What asking for a manifest by tag ends with, and how many requests it took.
fn manifest(
    script: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static,
) -> (Result<Vec<u8>, RegistryError>, usize) {
    let registry = BadRegistry::start(script);
    let got = client().manifest(&at(&registry.host, "app"), "1", &Progress::new());
    (got.map(|manifest| manifest.bytes), registry.asked().len())
}

#[test]
fn each_status_has_its_error() {
    let said = r#"{"errors":[{"code":"DENIED","message":"not for\nyou"}]}"#;
    for (status, message, requests) in [
        (401, "wants a login for app", 1),
        (403, "denies access to $HOST/app:1: not for you", 1),
        (404, "$HOST/app:1: not found: not for you", 1),
        (410, "$HOST/app:1: not found: not for you", 1),
        (418, "answered 418 for $HOST/app:1: not for you", 1),
        (408, "answered 408 for $HOST/app:1: not for you", 3),
        (429, "limits its pulls: try again later", 3),
        (500, "answered 500 for $HOST/app:1: not for you", 3),
        (503, "answered 503 for $HOST/app:1: not for you", 3),
    ] {
        let registry = BadRegistry::start(move |_, _| Answer::new(status).body(said));
        let error = client().manifest(&at(&registry.host, "app"), "1", &Progress::new()).unwrap_err();
        assert!(error.to_string().contains(&message.replace("$HOST", &registry.host)), "{status}: {error}");
        assert_eq!((registry.asked().len(), error.is_transient()), (requests, requests > 1), "{status}");
        assert_eq!(error.is_gone(), matches!(status, 404 | 410), "{status}");
    }
}

#[test]
fn what_goes_away_by_itself_is_waited_for() {
    for status in [408, 429, 500, 502, 503, 504] {
        for retry_after in [None, Some("0")] {
            let (got, requests) = manifest(move |number, _| match (number, retry_after) {
                (2, _) => Answer::ok(MANIFEST),
                (_, None) => Answer::new(status),
                (_, Some(seconds)) => Answer::new(status).header("retry-after", seconds),
            });
            assert_eq!((got.unwrap(), requests), (MANIFEST.into(), 3), "{status}");
        }
    }
    // Connections that end without a word.
    let (got, requests) =
        manifest(|number, _| if number == 1 { Answer::ok(MANIFEST) } else { Answer::ok(MANIFEST).cut_after(10) });
    assert_eq!((got.unwrap(), requests), (MANIFEST.into(), 2));
}

#[test]
fn a_registry_that_asks_for_too_long_a_wait_is_not_waited_for() {
    let date = "Sat, 21 Nov 2026 15:00:00 GMT";
    for (after, message) in [("3600", "try again in 60 min"), ("Sat, 21 Nov 2026 15:01:30 GMT", "try again in 90 s")] {
        let start = Instant::now();
        let (got, requests) = manifest(move |_, _| Answer::new(429).header("retry-after", after).header("date", date));
        let error = got.unwrap_err();
        assert!(matches!(error, RegistryError::RateLimited { wait: Some(_), .. }) && requests == 1, "{error:?}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_signal_ends_a_wait() {
    let registry = BadRegistry::start(|_, _| Answer::new(429).header("retry-after", "30"));
    let client = RegistryClient::new(RegistryOptions { max_wait: Duration::from_secs(60), ..impatient() }).unwrap();
    let (progress, start) = (Progress::new(), Instant::now());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while registry.asked().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            progress.stop();
        });
        let error = client.manifest(&at(&registry.host, "app"), "1", &progress).unwrap_err();
        assert!(matches!(error, RegistryError::Stopped { .. }), "{error:?}");
    });
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn manifests_that_are_none() {
    let large = vec![b' '; 10 << 20];
    let other = Digest::of(b"other").to_string();
    let cases: Vec<(Answer, &str)> = vec![
        (Answer::ok(large.clone()), "more than 4194304 bytes; that is no manifest"),
        (Answer::ok(large).unsized_body(), "more than 4194304 bytes; that is no manifest"),
        (Answer::ok(&MANIFEST[..20]), "no JSON: EOF"),
        (Answer::ok("<html>").header("content-type", "text/html"), "no JSON (text/html)"),
        (Answer::ok("{}"), "neither a manifest nor an index"),
        (Answer::ok(MANIFEST).header("docker-content-digest", other), "the registry sent other bytes"),
        (Answer::new(302).header("location", "http://cdn.example/x"), "redirects to cdn.example, by plain HTTP"),
        (Answer::new(302).header("location", "/v2/app/manifests/1"), "redirects more than 5 times"),
        (Answer::new(302), "redirects without a usable address"),
    ];
    for (answer, message) in cases {
        let (got, _) = manifest(move |_, _| answer.clone());
        let error = got.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(!error.is_transient() && !error.is_gone(), "{error:?}");
    }
    // By digest, the digest is the one that was asked for, whatever the header says.
    let registry = BadRegistry::start(|_, _| {
        Answer::ok(MANIFEST).header("docker-content-digest", Digest::of(MANIFEST.as_bytes()).to_string())
    });
    let which = Digest::of(b"other").to_string();
    let error = client().manifest(&at(&registry.host, "app"), &which, &Progress::new()).unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error:?}");
}

#[test]
fn a_registry_that_says_little_is_asked_for_all() {
    let digest = Digest::of(MANIFEST.as_bytes());
    for answer in [Answer::new(405), Answer::ok("")] {
        let registry = BadRegistry::start(move |_, asked| match asked.method.as_str() {
            "HEAD" => answer.clone(),
            _ => Answer::ok(MANIFEST).header("ratelimit-remaining", "76;w=21600"),
        });
        let head = client().head(&at(&registry.host, "app"), "1", &Progress::new()).unwrap();
        assert_eq!((head.digest, head.remaining, head.size), (Some(digest), Some(76), Some(MANIFEST.len() as u64)));
        assert_eq!(registry.log(), ["HEAD /v2/app/manifests/1", "GET /v2/app/manifests/1"]);
    }
    // And one that says enough is not: that would count as a pull.
    let registry = BadRegistry::start(move |_, _| {
        let answer = Answer::ok(MANIFEST).header("docker-content-digest", digest.to_string());
        answer.header("ratelimit-remaining", "5")
    });
    let head = client().head(&at(&registry.host, "app"), "1", &Progress::new()).unwrap();
    assert_eq!((head.digest, head.remaining, registry.log().len()), (Some(digest), Some(5), 1));
    let accept: Vec<_> = registry.asked()[0].headers.iter().filter(|(name, _)| name == "accept").cloned().collect();
    assert_eq!(accept.len(), 4, "{accept:?}");
}

#[test]
fn referrers_are_listed_by_the_registry_or_by_a_tag() {
    let (image, other) = (Digest::of(b"image"), Digest::of(b"other"));
    let list = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{other}"}},{{"digest":"sha512:0"}}]}}"#);
    let (api, tag) = (format!("/v2/app/referrers/{image}"), format!("/v2/app/manifests/sha256-{}", image.hex()));
    let referrers = |by_api: Answer, by_tag: Answer| {
        let (asked_for, registry_tag) = (api.clone(), tag.clone());
        let registry = BadRegistry::start(move |_, asked| match &asked.path {
            path if *path == asked_for => by_api.clone(),
            path if *path == registry_tag => by_tag.clone(),
            _ => Answer::new(500),
        });
        client().referrers(&at(&registry.host, "app"), image, &Progress::new()).map_err(|error| error.to_string())
    };
    let (listed, none) = (Answer::ok(list), Answer::new(404));
    assert_eq!(referrers(listed.clone(), Answer::new(500)), Ok(vec![other]));
    assert_eq!(referrers(Answer::ok(r#"{"schemaVersion":2,"manifests":[]}"#), listed.clone()), Ok(vec![]));
    for without in [none.clone(), Answer::new(400), Answer::new(406)] {
        assert_eq!(referrers(without.clone(), listed.clone()), Ok(vec![other]));
        assert_eq!(referrers(without, none.clone()), Ok(vec![]));
    }
    // What could not be asked is not nothing.
    for (by_api, word) in
        [(Answer::new(403), "denies access"), (Answer::new(503), "503"), (Answer::ok("<"), "expected value")]
    {
        let said = referrers(by_api, listed.clone()).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
    assert!(referrers(none, Answer::new(503)).is_err());
}

/// What a registry does with `Range`: the rest of the blob, as it should.
fn ranged(blob: &[u8], asked: &Asked) -> Answer {
    let start = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match start {
        Some(start) => Answer::new(206)
            .body(&blob[start..])
            .header("content-range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        None => Answer::ok(blob),
    }
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let env = Env::new();
    let blob = noise(300_000);
    let digest = Digest::of(&blob);
    let content = blob.clone();
    let registry = BadRegistry::start(move |_, asked| ranged(&content, asked).cut_after(70_000));
    let (at, progress) = (at(&registry.host, "app"), Progress::new());
    // Each try gets on: there may be more of them than retries.
    let fetched = client().fetch_blob(&at, digest, 300_000, &env.path("blob"), &progress).unwrap();
    assert_eq!((fetched.bytes_from_network, fetched.resumed_from), (300_000, 0));
    assert_eq!(std::fs::read(env.path("blob")).unwrap(), blob);
    let ranges: Vec<_> = registry.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    let expected = [None, Some("bytes=70000-"), Some("bytes=140000-"), Some("bytes=210000-"), Some("bytes=280000-")];
    assert_eq!(ranges, expected.map(|range| range.map(str::to_owned)));

    // Across runs.
    std::fs::remove_file(env.path("blob")).unwrap();
    let once = RegistryClient::new(RegistryOptions { retries: 0, ..impatient() }).unwrap();
    let error = once.fetch_blob(&at, digest, 300_000, &env.path("blob"), &progress).unwrap_err();
    assert!(matches!(error, RegistryError::CutOff { .. }) && !env.path("blob").exists(), "{error:?}");
    assert_eq!(std::fs::metadata(env.path("blob.part")).unwrap().len(), 70_000);
    let fetched = client().fetch_blob(&at, digest, 300_000, &env.path("blob"), &progress).unwrap();
    assert_eq!((fetched.bytes_from_network, fetched.resumed_from), (230_000, 70_000));
}

#[test]
fn what_was_there_is_not_trusted() {
    let env = Env::new();
    let blob = noise(100_000);
    let (digest, to, part) = (Digest::of(&blob), env.path("blob"), env.path("blob.part"));
    let content = blob.clone();
    let good = BadRegistry::start(move |_, asked| ranged(&content, asked));
    let content = blob.clone();
    let deaf = BadRegistry::start(move |_, _| Answer::ok(content.clone()));
    let content = blob.clone();
    let unsatisfied = BadRegistry::start(move |_, asked| match asked.header("range") {
        Some(_) => Answer::new(416),
        None => Answer::ok(content.clone()),
    });
    let damaged = vec![b'x'; 40_000];
    for (registry, start, expected) in [
        (&good, &blob[..40_000], (60_000, 40_000)),
        // Damaged: seen at the end, and all of it fetched.
        (&good, &damaged[..], (160_000, 0)),
        // Longer than the blob, or as long and wrong.
        (&good, &[b'x'; 100_001][..], (100_000, 0)),
        (&good, &[b'x'; 100_000][..], (100_000, 0)),
        // A registry that ignores what it is asked for, and one that does not have it.
        (&deaf, &blob[..40_000], (100_000, 0)),
        (&unsatisfied, &blob[..40_000], (100_000, 0)),
    ] {
        std::fs::write(&part, start).unwrap();
        let fetched = client().fetch_blob(&at(&registry.host, "app"), digest, 100_000, &to, &Progress::new()).unwrap();
        assert_eq!((fetched.bytes_from_network, fetched.resumed_from), expected);
        assert!(std::fs::read(&to).unwrap() == blob && !part.exists());
        std::fs::remove_file(&to).unwrap();
    }
    // One that sends another range than it was asked for.
    let content = blob.clone();
    let confused = BadRegistry::start(move |_, _| {
        Answer::new(206).body(&content[..10]).header("content-range", "bytes 0-9/100000")
    });
    std::fs::write(&part, &blob[..40_000]).unwrap();
    let at = at(&confused.host, "app");
    let error = client().fetch_blob(&at, digest, 100_000, &to, &Progress::new()).unwrap_err();
    assert!(error.to_string().ends_with("it was asked for the bytes from 40000 on"), "{error}");
}

#[test]
fn wrong_bytes_are_not_kept() {
    let env = Env::new();
    let blob = noise(100_000);
    let (digest, wrong) = (Digest::of(&blob), vec![b'x'; 100_000]);
    let mut longer = blob.clone();
    longer.push(b'x');
    let cases: Vec<(Answer, &str)> = vec![
        (Answer::ok(wrong), "the registry sent other bytes, with digest sha256:"),
        (Answer::ok(&blob[..99_999]), "expected 100000 bytes, the registry has 99999"),
        (Answer::ok(longer.clone()), "expected 100000 bytes, the registry has 100001"),
        (Answer::ok(longer).unsized_body(), "expected 100000 bytes, the registry has 100001"),
    ];
    for (answer, message) in cases {
        let registry = BadRegistry::start(move |_, _| answer.clone());
        let at = at(&registry.host, "app");
        let error = client().fetch_blob(&at, digest, 100_000, &env.path("blob"), &Progress::new()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        let small = client().blob(&at, digest, 100_000, &Progress::new()).unwrap_err();
        assert!(!small.is_transient(), "{small:?}");
        assert_eq!(registry.asked().len(), 2, "no further try");
        let left = std::fs::read(env.path("blob.part")).unwrap_or_default();
        assert!(!env.path("blob").exists() && left.is_empty(), "{message}");
    }
    let error = client().blob(&at("127.0.0.1:1", "app"), digest, 9 << 20, &Progress::new()).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_registry_that_sends_nothing_or_next_to_nothing_is_left() {
    let env = Env::new();
    let blob = noise(10_000);
    // Nothing for longer than the stall time, and a byte now and then.
    for (piece, pause, reason) in [(5000, 3000, "nothing came in"), (1, 100, "bytes came in")] {
        let content = blob.clone();
        let slow = move |_: usize, asked: &Asked| ranged(&content, asked).slowly(piece, Duration::from_millis(pause));
        let registry = BadRegistry::start(slow);
        let stall = if piece == 1 { Duration::from_secs(1) } else { Duration::from_millis(300) };
        let client = RegistryClient::new(RegistryOptions {
            retries: 0,
            waits: Waits { stall, ..impatient().waits },
            ..impatient()
        })
        .unwrap();
        let start = Instant::now();
        let (at, to) = (at(&registry.host, "app"), env.path(format!("blob{piece}")));
        let error = client.fetch_blob(&at, Digest::of(&blob), 10_000, &to, &Progress::new()).unwrap_err();
        assert!(matches!(&error, RegistryError::Timeout { .. }) && error.to_string().contains(reason), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(6) && env.path(format!("blob{piece}.part")).exists());
    }
    // Words of an error that trickle in are not waited for.
    let registry = BadRegistry::start(|_, _| Answer::new(418).body([b' '; 9000]).slowly(1, Duration::from_millis(50)));
    let start = Instant::now();
    let client = RegistryClient::new(RegistryOptions { retries: 0, ..impatient() }).unwrap();
    let error = client.manifest(&at(&registry.host, "app"), "1", &Progress::new()).unwrap_err();
    assert!(error.to_string().contains("answered 418") && start.elapsed() < Duration::from_secs(10), "{error}");
    // No answer at all.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let client = RegistryClient::new(RegistryOptions {
        retries: 0,
        waits: Waits { answer: Duration::from_millis(300), ..impatient().waits },
        ..impatient()
    })
    .unwrap();
    let error = client.head(&at(&host, "app"), "1", &Progress::new()).unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
}
