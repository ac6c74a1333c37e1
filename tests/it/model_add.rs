//! `windlass model add` and `model fetch`, against a stand-in for Hugging Face and web servers that misbehave.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, BadRegistry};
use crate::env::Env;
use crate::hub::{FakeHub, TOKEN, gguf, gguf_shards, ranged};

/// A user with a home and a Nix store of their own.
pub(crate) struct User {
    pub(crate) env: Env,
}

impl User {
    pub(crate) fn new() -> Self {
        let env = Env::new();
        fs::create_dir_all(env.path("state/gcroots/auto")).unwrap();
        fs::create_dir(env.path("store")).unwrap();
        Self { env }
    }

    /// A command in their environment.
    pub(crate) fn with(&self, mut command: Command) -> Command {
        for (name, folder) in [("HOME", "home"), ("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state")] {
            command.env(name, self.env.path(folder));
        }
        command
    }

    pub(crate) fn model(&self, hub: &FakeHub, arguments: &[&str]) -> Command {
        let mut command = self.with(self.env.windlass([&["model"], arguments].concat()));
        command.env("HF_ENDPOINT", hub.endpoint());
        command
    }

    fn run(&self, command: &mut Command) -> (i32, String, String) {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| self.env.scrub(&String::from_utf8(bytes).unwrap());
        (status.code().unwrap_or(-1), text(stdout), text(stderr))
    }

    fn add(&self, hub: &FakeHub, arguments: &[&str]) -> (i32, String, String) {
        self.run(&mut self.model(hub, &[&["add", "--retries", "0"], arguments].concat()))
    }

    pub(crate) fn lock(&self) -> Vec<u8> {
        fs::read(self.env.path("models.lock.json")).unwrap()
    }

    pub(crate) fn locked(&self) -> Value {
        serde_json::from_slice(&self.lock()).unwrap()
    }

    /// What is in the store, by name.
    pub(crate) fn in_store(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.env.path("store")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.len() > 33).map(|name| name[33..].to_owned()).collect();
        names.sort();
        names
    }

    fn cache(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.env.path("home/.cache/windlass/models")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// What `nix-store --print-fixed-path` says.
    pub(crate) fn fixed(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let mut command = Command::new("nix-store");
        command.args(["--print-fixed-path", "sha256", &Digest::of(bytes).hex(), name]);
        crate::env::run_ok(&mut self.with(command)).trim().into()
    }
}

#[test]
fn a_branch_is_locked_to_its_commit_and_the_token_stays_with_its_host() {
    let (user, model) = (User::new(), gguf("Tiny", "one", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model), ("README.md", b"no model"), ("sub/other.gguf", b"x")]);
    let with_token = |arguments: &[&str]| {
        let mut command = user.model(&hub, arguments);
        user.run(command.env("HF_TOKEN", TOKEN))
    };
    let (code, out, err) = with_token(&["add", "hf:org/repo/m.gguf"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let text = String::from_utf8(user.lock()).unwrap();
    assert!(!format!("{text}{out}").contains(TOKEN));
    let path = user.fixed("m.gguf", &model);
    assert_eq!(fs::read(&path).unwrap(), model);
    assert!(out.contains(&user.env.scrub(path.to_str().unwrap())), "{out}");
    assert!(out.contains("hf:org/repo/m.gguf is floating: it is locked to the commit 111111111111"), "{out}");
    insta::assert_snapshot!("models.lock", text.replace(&hub.endpoint(), "$HUB"));
    let told = |asked: &crate::bad_registry::Asked| asked.header("authorization").map(str::to_owned);
    assert!(hub.hub.asked().iter().all(|asked| told(asked) == Some(format!("Bearer {TOKEN}"))));
    assert!(!hub.cdn.asked().is_empty() && hub.cdn.asked().iter().all(|asked| told(asked).is_none()));
    assert!(user.cache().is_empty());

    // Once more: no byte of the lock changes, and none is downloaded.
    let downloads = hub.downloads();
    let report: Value = serde_json::from_str(&with_token(&["add", "hf:org/repo/m.gguf", "--json"]).1).unwrap();
    assert_eq!((&report["changed"], &report["network"]), (&json!(false), &json!(0)), "{report}");
    assert_eq!((String::from_utf8(user.lock()).unwrap(), hub.downloads()), (text.clone(), downloads));

    // The collector leaves it.
    let mut dead = Command::new("nix-store");
    dead.args(["--gc", "--print-dead"]);
    assert!(!crate::env::run_ok(&mut user.with(dead)).contains("m.gguf"));

    // The branch has moved: it is said, and a lock that is not added to stays what it is.
    hub.state().commit = "2".repeat(40);
    hub.state().files.insert("m.gguf".to_owned(), gguf("Tiny", "two", 5000));
    assert_eq!(with_token(&["fetch"]).1.lines().last().unwrap(), "1 model: 0 files fetched; network 0 B");
    let (code, out, _) = with_token(&["add", "hf:org/repo/m.gguf"]);
    assert!(code == 0 && out.contains("moved m: 1 file") && out.contains("the commit 222222222222"), "{out}");
    assert_eq!(user.locked()["models"]["m"]["source"]["revision"], "2".repeat(40));
    // By its commit it is no more floating; and another one of this name is not overwritten.
    let pinned = format!("hf:org/repo@{}/m.gguf", "2".repeat(40));
    let (code, _, err) = with_token(&["add", &pinned]);
    assert!(code == 2 && err.contains("has a model 'm' already, hf:org/repo/m.gguf; --replace"), "{err}");
    let (code, out, _) = with_token(&["add", &pinned, "--replace"]);
    assert!(code == 0 && !out.contains("floating"), "{out}");
    assert_eq!(user.locked()["models"]["m"]["source"]["floating"], false);
}

#[test]
fn what_is_gated_says_what_to_do() {
    let (user, model) = (User::new(), gguf("Tiny", "gated", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model)]);
    for status in [401, 403] {
        hub.state().gated = Some(status);
        let (code, out, err) = user.add(&hub, &["hf:org/repo/m.gguf"]);
        let terms = format!("accept its terms at http://{}/org/repo, then set HF_TOKEN", hub.hub.host);
        assert!(code == 7 && out.is_empty() && err.contains(&terms), "{code} {err}");
        let mut wrong = user.model(&hub, &["add", "hf:org/repo/m.gguf"]);
        let (code, _, err) = user.run(wrong.env("HF_TOKEN", "hf_another"));
        assert!(code == 7 && err.contains("to the owner of this token") && !err.contains("hf_another"), "{err}");
    }
    assert!(!user.env.path("models.lock.json").exists() && user.in_store().is_empty());
    // The login of Hugging Face's own tools.
    user.env.write("home/.cache/huggingface/token", format!("{TOKEN}\n"));
    assert_eq!(user.add(&hub, &["hf:org/repo/m.gguf"]).0, 0);
    assert_eq!(user.in_store(), ["m.gguf"]);
}

#[test]
fn what_broke_off_or_was_killed_goes_on() {
    let (user, model) = (User::new(), gguf("Tiny", "long", 500_000));
    let hub = FakeHub::start(&[("m.gguf", &model)]);
    hub.state().cut = Some(300_000);
    let (code, _, err) = user.add(&hub, &["hf:org/repo/m.gguf"]);
    assert!(code == 1 && err.contains("broke off"), "{code} {err}");
    assert!(!user.env.path("models.lock.json").exists());
    let part = user.cache();
    let there = |part: &Path| fs::metadata(part).map_or(0, |part| part.len());
    assert_eq!(part.iter().map(|part| there(part)).collect::<Vec<_>>(), [300_000]);

    (hub.state().cut, hub.state().slow) = (None, true);
    let mut child = user.model(&hub, &["add", "hf:org/repo/m.gguf"]).stdout(Stdio::null()).spawn().unwrap();
    while there(&part[0]) < 600_000 {
        assert!(child.try_wait().unwrap().is_none(), "too fast to be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.state().slow = false;
    let kept = there(&part[0]);
    let report: Value = serde_json::from_str(&user.add(&hub, &["hf:org/repo/m.gguf", "--json"]).1).unwrap();
    assert_eq!(report["network"], json!(model.len() as u64 - kept), "{report}");
    assert_eq!(fs::read(user.fixed("m.gguf", &model)).unwrap(), model);
    assert!(user.cache().is_empty());
}

#[test]
fn other_bytes_than_were_promised_are_refused() {
    let (user, model) = (User::new(), gguf("Tiny", "true", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model), ("page.gguf", b"<!DOCTYPE html><html><body>Sign in</body></html>")]);
    hub.state().lie = Some(gguf("Tiny", "lie", 5000));
    let (code, _, err) = user.add(&hub, &["hf:org/repo/m.gguf"]);
    assert!(code == 4 && err.contains("other bytes"), "{code} {err}");
    hub.state().lie = Some(b"<html>busy</html>".to_vec());
    let (code, _, err) = user.add(&hub, &["hf:org/repo/m.gguf"]);
    assert!(code == 4 && err.contains("bytes"), "{code} {err}");
    assert!(user.in_store().is_empty() && user.cache().is_empty());
    // A page that is there under a model's name, on the hub and at any address.
    let address = format!("{}/org/repo/resolve/{}/page.gguf", hub.endpoint(), "1".repeat(40));
    for reference in ["hf:org/repo/page.gguf", &address] {
        let (code, _, err) = user.add(&hub, &[reference]);
        assert!(code == 4 && err.starts_with("windlass: page.gguf is not a model: it is "), "{code} {err}");
        assert!(err.to_ascii_lowercase().contains("html"), "{err}");
    }
    assert!(!user.env.path("models.lock.json").exists());
    let (code, out, err) = user.add(&hub, &["hf:org/repo/page.gguf", "--any-file"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("pinned page"), "{out}");
    assert_eq!(user.locked()["models"]["page"].get("facts"), None);
}

#[test]
fn all_shards_come_whichever_is_named() {
    let (user, [first, second]) = (User::new(), gguf_shards("shards"));
    let names = ["q/two-00001-of-00002.gguf", "q/two-00002-of-00002.gguf"];
    let hub = FakeHub::start(&[(names[0], &first), (names[1], &second), ("q/tokenizer.json", b"{}")]);
    let (code, _, err) = user.add(&hub, &["hf:org/repo/q/two-00002-of-00002.gguf", "--file", "q/*.json"]);
    assert_eq!(code, 0, "{err}");
    let lock = user.locked();
    let of = |model: &str, key: &str| {
        let files = lock["models"][model]["files"].as_array().unwrap();
        files.iter().map(|file| file[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("two", "path"), ["two-00001-of-00002.gguf", "two-00002-of-00002.gguf", "tokenizer.json"]);
    assert_eq!(of("two", "sha256"), [&first[..], &second, b"{}"].map(|bytes| Digest::of(bytes).hex()));
    assert_eq!(lock["models"]["two"]["facts"]["parameters"], 1200);
    // What is in Git itself has no digest there; of the same commit the lock knows it.
    let downloads = hub.downloads();
    assert_eq!(user.add(&hub, &["hf:org/repo/q/two-00002-of-00002.gguf", "--file", "q/*.json"]).0, 0);
    assert_eq!((user.locked(), hub.downloads()), (lock.clone(), downloads));

    // From files, and one that is missing.
    for (name, bytes) in [("two-00001-of-00002.gguf", &first), ("two-00002-of-00002.gguf", &second)] {
        user.env.write(format!("local/{name}"), bytes);
    }
    let (code, _, err) = user.add(&hub, &["local/two-00001-of-00002.gguf", "--name", "local"]);
    assert_eq!(code, 0, "{err}");
    let local = user.locked()["models"]["local"].clone();
    assert_eq!(local["files"][1]["sha256"], Digest::of(&second).hex());
    assert_eq!(local["files"][1].get("url"), None);
    fs::remove_file(user.env.path("local/two-00002-of-00002.gguf")).unwrap();
    let (code, _, err) = user.add(&hub, &["local/two-00001-of-00002.gguf", "--name", "broken"]);
    assert!(
        code == 2 && err.contains("there is no file 'two-00002-of-00002.gguf' in local; there are: "),
        "{code} {err}"
    );
    hub.state().files.remove(names[1]);
    let (code, _, err) = user.add(&hub, &["hf:org/repo/q/two-00001-of-00002.gguf", "--name", "gone"]);
    assert!(
        code == 2
            && err.contains("there is no file 'q/two-00002-of-00002.gguf' in org/repo at 111111111111; there are: "),
        "{err}"
    );
}

#[test]
fn an_address_is_learnt_and_gone_on_with_while_it_is_the_same() {
    let user = User::new();
    let hub = FakeHub::start(&[]);
    let models = [gguf("Old", "old", 100_000), gguf("New", "new", 100_000)];
    let of_server = models.clone();
    // The first answer breaks off; from the third on there is another model at the address.
    let gets = AtomicUsize::new(0);
    let server = BadRegistry::start(move |_, asked| {
        let number =
            if asked.method == "GET" { gets.fetch_add(1, Ordering::SeqCst) } else { gets.load(Ordering::SeqCst) };
        let (tag, bytes) = if number < 3 { ("\"a\"", &of_server[0]) } else { ("\"b\"", &of_server[1]) };
        let answer = match asked.header("if-range") {
            Some(other) if other != tag => Answer::ok(&bytes[..]),
            _ => ranged(bytes, asked),
        };
        let answer = answer.header("etag", tag);
        if matches!(number, 0 | 2) && asked.method == "GET" { answer.cut_after(150_000) } else { answer }
    });
    let address = format!("http://{}/main/model.gguf", server.host);
    let add = || user.add(&hub, &[&address, "--json"]);
    assert_eq!(add().0, 1);
    let report: Value = serde_json::from_str(&add().1).unwrap();
    assert_eq!(report["network"], json!(models[0].len() - 150_000), "{report}");
    assert_eq!((&report["source"]["floating"], &report["facts"]["name"]), (&json!(true), &json!("Old")));
    // What broke off of the old model is nothing for the new one.
    assert_eq!(add().0, 1);
    let report: Value = serde_json::from_str(&add().1).unwrap();
    assert_eq!((&report["facts"]["name"], &report["network"]), (&json!("New"), &json!(models[1].len())), "{report}");
    assert_eq!(fs::read(user.fixed("model.gguf", &models[1])).unwrap(), models[1]);
    for (reference, said) in [
        ("http://models.example/m.gguf", "is by plain HTTP, which is for servers of this machine only; use https://"),
        ("https://me:secret@models.example/m.gguf", "is not an address of a file"),
        ("hf:org", "names no file of Hugging Face"),
    ] {
        let (code, _, err) = user.add(&hub, &[reference]);
        assert!(code == 2 && err.contains(said), "{code} {err}");
    }
}

#[test]
fn a_file_of_this_machine_is_taken_as_it_is() {
    let (user, model) = (User::new(), gguf("Local", "local", 3000));
    let hub = FakeHub::start(&[]);
    // As Hugging Face's cache has it: a link with the name, to a file with the digest.
    user.env.write("blobs/0123", &model);
    fs::create_dir(user.env.path("snapshot")).unwrap();
    symlink("../blobs/0123", user.env.path("snapshot/My Local.gguf")).unwrap();
    let (code, out, err) = user.add(&hub, &["snapshot/My Local.gguf"]);
    assert!(code == 0 && out.contains("pinned my-local: 1 file") && out.ends_with("network 0 B\n"), "{out}{err}");
    let path = user.fixed("My-Local.gguf", &model);
    assert_eq!(fs::read(&path).unwrap(), model);
    assert_eq!(user.locked()["models"]["my-local"]["licence"], "MIT");
    // A store path is called as it was added.
    let (code, _, err) = user.add(&hub, &[path.to_str().unwrap(), "--name", "again"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(user.locked()["models"]["again"]["files"][0]["name"], "My-Local.gguf");
    assert_eq!(user.in_store(), ["My-Local.gguf"]);
    assert!(user.cache().is_empty());
    for (reference, code) in [("none.gguf", 1), ("blobs", 2)] {
        assert_eq!(user.add(&hub, &[reference]).0, code, "{reference}");
    }
    let remove = |names: &[&str]| user.run(&mut user.model(&hub, &[&["remove"], names].concat()));
    let (code, _, err) = remove(&["again", "other"]);
    assert!(code != 0 && err.contains("other") && user.locked()["models"]["again"].is_object(), "{code} {err}");
    assert_eq!(remove(&["again"]).1, "again removed; 1 model left in models.lock.json\n");
    assert_eq!(user.locked()["models"].as_object().unwrap().keys().collect::<Vec<_>>(), ["my-local"]);
}

#[test]
fn a_lock_is_enough_and_too_little_space_is_known_before() {
    let (user, model) = (User::new(), gguf("Tiny", "fetch", 700_000));
    let hub = FakeHub::start(&[("m.gguf", &model)]);
    let small = user.env.mount("small", "tmpfs", 1 << 20);
    let mut command = user.model(&hub, &["add", "hf:org/repo/m.gguf"]);
    let (code, _, err) = user.run(command.env("XDG_CACHE_HOME", &small.0));
    assert!(code == 5 && err.contains("$T/small/windlass/models has ") && err.contains("free some"), "{code} {err}");
    assert_eq!(hub.downloads(), 0);

    assert_eq!(user.add(&hub, &["hf:org/repo/m.gguf"]).0, 0);
    // On another machine there is the lock and no file.
    let other = User::new();
    let lock = other.env.write("models.lock.json", user.lock());
    let fetch = |arguments: &[&str]| other.run(&mut other.model(&hub, &[&["fetch"], arguments].concat()));
    let (code, _, err) = fetch(&["--offline"]);
    assert!(code == 6 && err.contains("would have to be fetched"), "{code} {err}");
    let (code, out, err) = fetch(&["m"]);
    assert!(code == 0 && out.contains("1 model: 1 file fetched; network 2.8 MB"), "{out}{err}");
    assert_eq!(fs::read(other.fixed("m.gguf", &model)).unwrap(), model);
    assert_eq!((fetch(&["--offline"]).0, fs::read(lock).unwrap()), (0, user.lock()));
    let (code, _, err) = fetch(&["n"]);
    assert!(code == 2 && err.contains("there is no model 'n'; there are: m"), "{code} {err}");
}

#[test]
fn no_name_in_a_listing_leads_out_of_the_cache() {
    let model = gguf("Tiny", "one", 5000);
    for name in ["../../../x.gguf", "a/../../x.gguf", "..", "/x.gguf", "x\u{202e}.gguf"] {
        let user = User::new();
        let hub = FakeHub::start(&[("m.gguf", &model), (name, &model)]);
        // Beside another file, and by its name.
        let by_name = format!("hf:org/repo/{name}");
        for arguments in [&["add", "hf:org/repo/m.gguf", "--file", "*", "--file", name][..], &["add", &by_name]] {
            let (code, out, err) = user.run(&mut user.model(&hub, arguments));
            assert!(!name.contains("..") || (1..8).contains(&code), "{name:?}: {code} {out}{err}");
            assert!(!format!("{out}{err}").contains('\u{202e}'), "{out}{err}");
        }
        let cache = user.env.path("home/.cache/windlass/models");
        let above: Vec<_> = cache.ancestors().take(8).filter(|folder| folder.join("x.gguf").exists()).collect();
        assert_eq!(above, Vec::<&std::path::Path>::new(), "{name:?}");
    }
}
