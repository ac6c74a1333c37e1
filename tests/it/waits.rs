//! Servers that let a client wait: every request has an end, whatever trickles in, and a slow line that is honest has none.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;
use windlass::internals::registry::client::RegistryClient;
use windlass::internals::registry::error::RegistryError;
use windlass::internals::registry::options::{RegistryOptions, Waits};

use crate::bad_registry::{Answer, BadRegistry};
use crate::env::Env;
use crate::registry::{at, impatient, noise};

/// A server that says `first`, and then `again` and again, without end.
pub(crate) struct Trickle {
    pub(crate) host: String,
    /// Connections that have asked something.
    asked: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Trickle {
    pub(crate) fn start(first: &'static str, again: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (asked, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&asked), Arc::clone(&done));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, ended) = (Arc::clone(&count), Arc::clone(&ended));
                std::thread::spawn(move || trickle(&stream.unwrap(), first, again, &count, &ended));
            }
        });
        Self { host, asked, done }
    }

    /// Waits until a client has asked, and is waiting now.
    pub(crate) fn is_asked(&self) {
        while self.asked.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
    }
}

fn trickle(mut stream: &TcpStream, first: &str, again: &str, asked: &AtomicUsize, done: &AtomicBool) {
    let mut request = [0; 4096];
    drop(stream.read(&mut request));
    asked.fetch_add(1, Ordering::SeqCst);
    let mut text = first;
    // A client that has gone away ends it.
    while !done.load(Ordering::SeqCst) && stream.write_all(text.as_bytes()).is_ok() {
        text = again;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits that are short, each of its own length, so that the message says which it was.
fn short() -> Waits {
    Waits {
        connect: Duration::from_millis(350),
        stall: Duration::from_millis(400),
        answer: Duration::from_millis(300),
        document: Duration::from_millis(700),
        stored: Duration::from_millis(500),
        reason: Duration::from_millis(200),
    }
}

fn client(insecure: bool) -> RegistryClient {
    RegistryClient::new(RegistryOptions { insecure, retries: 0, waits: short(), ..impatient() }).unwrap()
}

/// What a wait ended with, after which time; far less than the server would take, which never ends.
fn waited<T: std::fmt::Debug>(ask: impl FnOnce() -> Result<T, RegistryError>) -> RegistryError {
    let start = Instant::now();
    let error = ask().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{error}");
    error
}

#[test]
fn whatever_trickles_in_has_an_end() {
    let (progress, env) = (Progress::new(), Env::new());
    let ok = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\n";
    let head = format!("{ok}content-length: 100000\r\n\r\n").leak();
    let chunked = format!("{ok}transfer-encoding: chunked\r\n\r\n5;x=").leak();
    for (case, first, again, reason) in [
        ("nothing", "", "", "no whole answer came in 0.3 s"),
        ("a header", "HTTP/1.1 200 OK\r\nx: ", "a", "no whole answer came in 0.3 s"),
        ("hints", "HTTP/1.1 103 Early\r\n\r\n", "HTTP/1.1 103 Early\r\n\r\n", "no whole answer came in 0.3 s"),
        ("a body", head, "a", "not all of it came in 0.7 s"),
        ("the size of a chunk", chunked, "a", "came in 0."),
    ] {
        let server = Trickle::start(first, again);
        let error = waited(|| client(true).manifest(&at(&server.host, "app"), "1", &progress));
        assert!(matches!(error, RegistryError::Timeout { .. }), "{case}: {error:?}");
        let said = error.to_string();
        let start = format!("{0}/app:1: {0} is too slow: ", server.host);
        assert!(said.starts_with(&start) && said.contains(reason), "{case}: {said}");
    }
    // A blob, in pieces of which no end comes; and one that the server stops to send.
    for (first, again) in [(&*chunked, "a"), (&*head, "")] {
        let server = Trickle::start(first, again);
        let (at, to) = (at(&server.host, "app"), env.path("blob"));
        let error = waited(|| client(true).fetch_blob(&at, Digest::of(b"x"), 100_000, &to, &progress));
        assert!(error.to_string().ends_with("is too slow: nothing came in 0.4 s"), "{error}");
    }
    // The token that a registry sends its clients for.
    let tokens = Trickle::start("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", " ");
    let challenge = format!("Bearer realm=\"http://{}/token\"", tokens.host);
    let registry = BadRegistry::start(move |_, _| Answer::new(401).header("www-authenticate", challenge.clone()));
    let error = waited(|| client(true).manifest(&at(&registry.host, "app"), "1", &progress));
    assert!(error.to_string().ends_with("is too slow: not all of it came in 0.7 s"), "{error}");
    // The words of an error, which are then left out.
    let server = Trickle::start("HTTP/1.1 418 No\r\ncontent-length: 1000\r\n\r\n", " ");
    let error = waited(|| client(true).manifest(&at(&server.host, "app"), "1", &progress));
    assert!(matches!(error, RegistryError::Refused { status: 418, .. }), "{error:?}");
    // A server that never ends to say hello, where TLS is spoken; and one that takes an upload and says nothing more.
    let server = Trickle::start("", "");
    let error = waited(|| client(false).manifest(&at(&server.host, "app"), "1", &progress));
    assert!(error.to_string().contains("0.3"), "{error}");
    let error = waited(|| client(true).push_manifest(&at(&server.host, "app"), "1", "a/b", b"{}", &progress));
    assert!(error.to_string().ends_with("no whole answer came in 0.5 s"), "{error}");
}

#[test]
fn what_is_too_slow_is_tried_again_only_for_as_long_as_a_document_may_take() {
    let server = Trickle::start("HTTP/1.1 200 OK\r\nx: ", "a");
    let options = RegistryOptions { retries: 100, waits: short(), ..impatient() };
    let client = RegistryClient::new(options).unwrap();
    let error = waited(|| client.manifest(&at(&server.host, "app"), "1", &Progress::new()));
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
    let tries = server.asked.load(Ordering::SeqCst);
    assert!((2..=4).contains(&tries), "{tries} tries");
}

#[test]
fn a_slow_line_that_is_honest_gets_its_blob() {
    let env = Env::new();
    let blob = noise(400_000);
    let content = blob.clone();
    // 2 s in all: longer than any other wait here.
    let registry =
        BadRegistry::start(move |_, _| Answer::ok(content.clone()).slowly(10_000, Duration::from_millis(50)));
    let (at, to, start) = (at(&registry.host, "app"), env.path("blob"), Instant::now());
    let fetched = client(true).fetch_blob(&at, Digest::of(&blob), 400_000, &to, &Progress::new()).unwrap();
    assert!(start.elapsed() > short().document, "it was not slow");
    assert_eq!((fetched.bytes_from_network, std::fs::read(to).unwrap()), (400_000, blob));
}

#[test]
fn the_waits_can_be_set_and_the_verb_says_what_it_waited_for() {
    let env = Env::new();
    let server = Trickle::start("HTTP/1.1 200 OK\r\nx: ", "a");
    let reference = format!("{}/app:1", server.host);
    let mut command = env.windlass(["upstream", "add", "app", &reference, "--insecure", "--retries", "0"]);
    let (start, output) =
        (Instant::now(), command.env("WINDLASS_NETWORK_WAIT", "1").env("HOME", env.path("")).output());
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains(&format!("{} is too slow: no whole answer came in 2 s", server.host)), "{said}");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(!env.path("images.lock.json").exists());
}
