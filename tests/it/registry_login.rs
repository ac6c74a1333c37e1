//! Logins: who gets them, who does not, and what is said without one.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass::internals::disk::progress::Progress;
use windlass::internals::oci::digest::Digest;
use windlass::internals::registry::client::RegistryClient;
use windlass::internals::registry::error::RegistryError;
use windlass::internals::registry::options::RegistryOptions;

use crate::bad_registry::{Answer, Asked, BadRegistry};
use crate::env::{Env, run_ok};
use crate::registry::{at, client, impatient, noise, push_image};
use crate::registry_server::RealRegistry;

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn with_file(file: PathBuf) -> RegistryClient {
    RegistryClient::new(RegistryOptions { auth_files: vec![file], ..impatient() }).unwrap()
}

/// `auth.json` with one login.
fn auth_file(env: &Env, key: &str, user: &str, password: &str) -> PathBuf {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    env.write("auth.json", serde_json::json!({ "auths": { key: { "auth": auth } } }).to_string())
}

#[test]
fn a_registry_with_a_login() {
    let env = Env::new();
    let registry = RealRegistry::with_login(&env, "alice", "s3cret:x");
    let (at, progress) = (at(&registry.host, "team/app"), Progress::new());
    let host = &registry.host;
    let error = client().head(&at, "1.0", &progress).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{host} wants a login for team/app, or has no such repository; log in with: podman login {host}")
    );

    let wrong = auth_file(&env, host, "alice", "hunter2");
    let told = format!("(it does not take the login of {})", wrong.display());
    let client = with_file(wrong);
    let error = client.head(&at, "1.0", &progress).unwrap_err();
    assert!(error.to_string().ends_with(&told), "{error}");
    assert!(!format!("{error:?} {client:?}").contains("hunter2"));

    let layer = noise(100_000);
    let client = with_file(auth_file(&env, &format!("{host}/team"), "alice", "s3cret:x"));
    push_image(&client, &at, &layer);
    assert_eq!(client.blob(&at, Digest::of(&layer), 100_000, &progress).unwrap(), layer);
    assert!(
        client.mount_blob(&crate::registry::at(host, "team/b"), Digest::of(&layer), "team/app", &progress).unwrap()
    );
    // It is a login for that folder alone.
    let error = client.head(&crate::registry::at(host, "other"), "1.0", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { login: None, .. }), "{error}");
}

/// The inner half of the next test: the helper is looked for on the PATH of the process.
#[test]
fn what_a_helper_keeps() {
    let Some(file) = std::env::var_os("WINDLASS_TEST_AUTH_FILE") else { return };
    let host = std::env::var("WINDLASS_TEST_HOST").unwrap();
    with_file(file.into()).head(&at(&host, "app"), "1.0", &Progress::new()).unwrap();
}

#[test]
fn a_helper_is_asked() {
    let env = Env::new();
    let registry = RealRegistry::with_login(&env, "alice", "s3cret");
    let host = &registry.host;
    push_image(&with_file(auth_file(&env, host, "alice", "s3cret")), &at(host, "app"), b"layer");
    let script = "#!/bin/sh\nread -r server\n[ \"$1 $server\" = \"get $HOST\" ] || exit 1\n\
                  echo '{\"ServerURL\":\"x\",\"Username\":\"alice\",\"Secret\":\"s3cret\"}'\n";
    let helper = env.write("bin/docker-credential-test", script.replace("$HOST", host));
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    for json in [r#"{"credsStore":"test"}"#.to_owned(), format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#)] {
        let path = format!("{}:{}", env.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "registry_login::what_a_helper_keeps"]).env("PATH", path);
        command.env("WINDLASS_TEST_AUTH_FILE", env.write("config.json", json)).env("WINDLASS_TEST_HOST", host);
        assert!(run_ok(&mut command).contains("1 passed"));
    }
}

#[test]
fn a_check_says_whose_login_was_taken() {
    let env = Env::new();
    let (open, closed) = (RealRegistry::start(&env), RealRegistry::with_login(&env, "alice", "s3cret"));
    let file = auth_file(&env, &closed.host, "alice", "s3cret");
    let (client, layer) = (with_file(file.clone()), noise(1000));
    for host in [&open.host, &closed.host] {
        push_image(&client, &at(host, "app"), &layer);
        let mut add =
            env.windlass(["upstream", "add", &host.replace(':', "-"), &format!("{host}/app:1.0"), "--insecure"]);
        run_ok(add.arg("--authfile").arg(&file).args(["--platform", "linux/amd64"]));
    }
    let check = |more: &[&str], code: i32| {
        let mut command = env.windlass(["upstream", "check", "--state", "state.json", "--retries", "0"]);
        let output = command.args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let block = |said: &str| {
        let (_, rest) = said.split_once("[Authentication Check]\n").unwrap();
        rest.split("\n\n").next().unwrap().lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let anybody = format!("  [OK] {}: without a login", open.host);
    let path = file.to_str().unwrap();
    let said = check(&["--authfile", path], 0);
    assert_eq!(block(&said), [anybody.clone(), format!("  [OK] {}: login of {path}", closed.host)].into());
    assert!(!said.contains("s3cret"));
    let said = check(&[], 7);
    assert_eq!(block(&said), [anybody, format!("  [UNKNOWN] {}: nothing could be looked up", closed.host)].into());
    let report: serde_json::Value = serde_json::from_str(&check(&["--authfile", path, "--json"], 0)).unwrap();
    assert_eq!(report["registries"][&closed.host], serde_json::json!({ "answered": true, "logins": [path] }));
    assert_eq!(report["registries"][&open.host], serde_json::json!({ "answered": true, "logins": [] }));
}

/// A registry that gives tokens: `GET /token` and `POST /token` to who logs in, or to all.
fn with_tokens(need_login: bool) -> BadRegistry {
    BadRegistry::start(move |number, asked| {
        let token = |name: &str| Answer::ok(format!(r#"{{"{name}":"t{number}"}}"#));
        if asked.path.starts_with("/token") {
            let basic = asked.header("authorization") == Some("Basic YWxpY2U6aHVudGVyMg==");
            let refreshed = String::from_utf8_lossy(&asked.body).contains("refresh_token=hunter2%2B&");
            let refreshed = refreshed || asked.body.ends_with(b"refresh_token=hunter2%2B");
            return match (asked.method.as_str(), need_login) {
                ("POST", _) if refreshed => token("access_token"),
                ("GET", true) if basic => token("token"),
                ("GET", false) => token("token"),
                _ => Answer::new(401),
            };
        }
        if asked.header("authorization").is_some_and(|header| header.starts_with("Bearer t")) {
            return Answer::ok(MANIFEST);
        }
        let host = asked.header("host").unwrap();
        let scope = if need_login { "" } else { r#",scope="repository:app:pull""# };
        let challenge = format!(r#"Bearer realm="http://{host}/token?a=b",service="the registry"{scope}"#);
        Answer::new(401).header("www-authenticate", challenge).body(r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    })
}

#[test]
fn a_token_is_got_once_for_a_repository() {
    let registry = with_tokens(false);
    let (client, progress) = (client(), Progress::new());
    for _ in 0..3 {
        client.manifest(&at(&registry.host, "app"), "1", &progress).unwrap();
    }
    client.manifest(&at(&registry.host, "b"), "1", &progress).unwrap();
    let token = "GET /token?a=b&service=the%20registry&scope=repository%3Aapp%3Apull";
    let [app, b] = ["GET /v2/app/manifests/1", "GET /v2/b/manifests/1"];
    // The second repository is challenged with the scope of the first: the registry says what it wants.
    assert_eq!(registry.log(), [app, token, app, app, app, b, token, b]);
    assert_eq!(registry.connections(), 1);

    // Many threads, one token.
    let registry = with_tokens(false);
    let client = crate::registry::client();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client.manifest(&at(&registry.host, "app"), "1", &Progress::new()).unwrap());
        }
    });
    assert_eq!(registry.log().iter().filter(|line| line.contains("/token")).count(), 1);
}

#[test]
fn a_push_asks_for_all_that_it_needs() {
    // A registry wants `pull` to look for a blob; the token is for what comes next too.
    let registry = with_tokens(false);
    let progress = Progress::new();
    client().has_blob(&at(&registry.host, "app"), Digest::of(b""), 0, &progress).unwrap();
    assert!(registry.log()[1].ends_with("&scope=repository%3Aapp%3Apull%2Cpush"), "{:?}", registry.log());
    client().mount_blob(&at(&registry.host, "app"), Digest::of(b""), "b", &progress).unwrap();
    let scopes = "&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Ab%3Apull";
    assert!(registry.log().iter().any(|line| line.ends_with(scopes)), "{:?}", registry.log());
}

#[test]
fn a_token_that_is_over_is_replaced() {
    let registry = BadRegistry::start(|number, asked| {
        let challenge = || format!(r#"Bearer realm="http://{}/token""#, asked.header("host").unwrap());
        if asked.path.starts_with("/token") {
            return Answer::ok(format!(r#"{{"token":"t{number}"}}"#));
        }
        // 0: 401, 1: token, 2: ok, 3: over, 4: token, 5: ok
        match asked.header("authorization") {
            Some("Bearer t1") if number == 2 => Answer::ok(MANIFEST),
            Some("Bearer t4") => Answer::ok(MANIFEST),
            _ => Answer::new(401).header("www-authenticate", challenge()),
        }
    });
    let (client, at, progress) = (client(), at(&registry.host, "app"), Progress::new());
    client.manifest(&at, "1", &progress).unwrap();
    client.manifest(&at, "1", &progress).unwrap();
    assert_eq!(registry.asked().len(), 6);
}

#[test]
fn tokens_for_a_login() {
    let env = Env::new();
    let registry = with_tokens(true);
    let (at, progress) = (at(&registry.host, "app"), Progress::new());
    let client = with_file(auth_file(&env, &registry.host, "alice", "hunter2"));
    client.manifest(&at, "1", &progress).unwrap();
    let shown = format!("{client:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("t1"), "{shown}");

    let json = format!(r#"{{"auths":{{"{}":{{"identitytoken":"hunter2+"}}}}}}"#, registry.host);
    let client = with_file(env.write("identity.json", json));
    client.manifest(&at, "1", &progress).unwrap();

    let anybody = crate::registry::client();
    let error = anybody.manifest(&at, "1", &progress).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { login: None, .. }), "{error}");
}

#[test]
fn tokens_are_not_got_in_the_clear_from_elsewhere() {
    let env = Env::new();
    for (realm, reason) in [
        ("http://tokens.example/token", "it gets its tokens from tokens.example, by plain HTTP"),
        ("tokens.example", "its token server has no usable address"),
        ("", "its token server has no usable address"),
    ] {
        let challenge = format!(r#"Bearer realm="{realm}""#);
        let registry = BadRegistry::start(move |_, _| Answer::new(401).header("www-authenticate", challenge.clone()));
        let client = with_file(auth_file(&env, &registry.host, "alice", "hunter2"));
        let error = client.manifest(&at(&registry.host, "app"), "1", &Progress::new()).unwrap_err();
        assert!(error.to_string().ends_with(reason), "{error}");
        assert_eq!(registry.asked().len(), 1);
    }
}

#[test]
fn a_token_server_that_sends_us_elsewhere_gets_no_further() {
    let env = Env::new();
    let elsewhere = BadRegistry::start(|_, _| Answer::ok(r#"{"token":"t"}"#));
    let there = format!("http://{}/token", elsewhere.host);
    let registry = BadRegistry::start(move |_, asked| match asked.path.as_str() {
        "/token?scope=repository%3Aapp%3Apull&account=alice" => Answer::new(307).header("location", there.clone()),
        _ => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, asked.header("host").unwrap());
            Answer::new(401).header("www-authenticate", realm)
        }
    });
    let client = with_file(auth_file(&env, &registry.host, "alice", "hunter2"));
    let error = client.manifest(&at(&registry.host, "app"), "1", &Progress::new()).unwrap_err();
    assert!(error.to_string().ends_with("its token server sends its clients elsewhere"), "{error}");
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn a_login_does_not_follow_a_redirect_to_another_host() {
    let env = Env::new();
    let blob = noise(50_000);
    let content = blob.clone();
    let storage = BadRegistry::start(move |_, _| Answer::ok(content.clone()));
    let there = format!("http://{}/blob?signature=x", storage.host);
    let registry = BadRegistry::start(move |_, asked: &Asked| match asked.header("authorization") {
        None => Answer::new(401).header("www-authenticate", r#"Basic realm="r""#),
        Some(_) if asked.path.starts_with("/moved/") => Answer::new(307).header("location", there.clone()),
        Some(_) => Answer::new(302).header("location", format!("/moved{}", asked.path)),
    });
    let client = with_file(auth_file(&env, &registry.host, "alice", "hunter2"));
    let (at, progress) = (at(&registry.host, "app"), Progress::new());
    let fetched = client.fetch_blob(&at, Digest::of(&blob), 50_000, &env.path("blob"), &progress).unwrap();
    assert_eq!(fetched.bytes_from_network, 50_000);
    assert_eq!(client.blob(&at, Digest::of(&blob), 50_000, &progress).unwrap(), blob);
    // The registry was told each time, on its own host also after a redirect; the other one never.
    assert!(registry.asked()[1..].iter().all(|asked| asked.header("authorization").is_some()));
    assert_eq!(storage.log(), ["GET /blob?signature=x", "GET /blob?signature=x"]);
    assert!(storage.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[test]
fn another_host_that_asks_for_a_login_gets_none() {
    let env = Env::new();
    let storage = BadRegistry::start(|_, asked: &Asked| {
        let realm = format!(r#"Bearer realm="http://{}/token",service="s""#, asked.header("host").unwrap());
        Answer::new(401).header("www-authenticate", realm)
    });
    let there = format!("http://{}/blob", storage.host);
    let registry = BadRegistry::start(move |_, _| Answer::new(307).header("location", there.clone()));
    let client = with_file(auth_file(&env, &registry.host, "alice", "hunter2"));
    let (at, progress) = (at(&registry.host, "app"), Progress::new());
    let error = client.blob(&at, Digest::of(b"x"), 1, &progress).unwrap_err();
    assert!(error.to_string().contains("to a place that wants a login of its own"), "{error}");
    assert!(storage.asked().iter().all(|asked| asked.header("authorization").is_none() && asked.path == "/blob"));
}
