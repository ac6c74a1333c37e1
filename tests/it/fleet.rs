//! Several hosts: what a Nix binary cache, a registry and a mirror give them, counted at their cables.

#![expect(clippy::print_stdout, reason = "the tables of docs/fleet.md are made of it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::env::{Env, base_name, closure, run_ok};
use crate::net_hosts::{NetHost, Switch};
use crate::nix::{build, nix};

/// A binary cache that takes what Nix puts there, as `nix copy --to http://…` does it.
const CACHE: &str = r#"
import http.server, os, sys
class Cache(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        path = self.translate_path(self.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        left = int(self.headers["Content-Length"])
        with open(path, "wb") as file:
            while left:
                data = self.rfile.read(min(left, 1 << 20))
                file.write(data)
                left -= len(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("", 8080), Cache).serve_forever()
"#;

/// Redis, and an app of Python's over the model, with this text.
pub(crate) fn stack(text: &str) -> String {
    let app = format!(
        r#"w.buildImage {{ name = "app"; models = [ (w.buildModel {{ name = "smollm2"; src = pkgs.windlassModels.smollm2; }}) ];
        config.Cmd = [ "${{pkgs.python3}}/bin/python3" "/app.py" ];
        texts."/app.py" = "print('{text}')"; }}"#
    );
    let redis = r#"w.buildImage { name = "redis"; config.Cmd = [ "${pkgs.redis}/bin/redis-server" "--version" ]; }"#;
    let stack = format!("(w.buildStack {{ name = \"fleet\"; images = [ ({redis}) ({app}) ]; }}).lean");
    build(&stack).unwrap().to_str().unwrap().to_owned()
}

/// Name and tag of an image of a stack.
fn reference(stack: &str, name: &str) -> String {
    let json: Value = serde_json::from_slice(&fs::read(Path::new(stack).join("stack.json")).unwrap()).unwrap();
    let entry = json["images"].as_array().unwrap().iter().find(|image| image["name"] == name).unwrap();
    entry["ref"].as_str().unwrap().to_owned()
}

fn run(host: &NetHost, image: &str) -> String {
    host.ok("podman", &["run", "--rm", "--pull=never", "--network=none", "--read-only", image])
}

fn size(folder: &Path) -> u64 {
    let du = run_ok(Command::new("du").args(["--summarize", "--bytes"]).arg(folder));
    du.split('\t').next().unwrap().parse().unwrap()
}

/// What Nix says of all that is in a binary cache, together.
fn nar_sizes(cache: &Path) -> u64 {
    let entries = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let infos = entries.filter(|path| path.extension().is_some_and(|extension| extension == "narinfo"));
    let size = |path: std::path::PathBuf| -> u64 {
        let text = fs::read_to_string(path).unwrap();
        text.lines().find_map(|line| line.strip_prefix("NarSize: ")).unwrap().parse().unwrap()
    };
    infos.map(size).sum()
}

/// What the Podman of a host has unpacked, as its own records say.
fn layer_sizes(host: &NetHost) -> u64 {
    let records = fs::read(host.path("podman/root/overlay-layers/layers.json")).unwrap();
    let layers: Value = serde_json::from_slice(&records).unwrap();
    layers.as_array().unwrap().iter().map(|layer| layer["diff-size"].as_u64().unwrap_or(0)).sum()
}

#[test]
fn a_binary_cache_gives_a_host_its_images_and_a_registry_gives_another_the_same() {
    let env = Env::new();
    let switch = Switch::new();
    let [server, a, b] = [("server", 1), ("a", 2), ("b", 3)].map(|(name, number)| switch.host(&env, name, number));
    let versions = ["one", "two"].map(stack);
    let own = run_ok(nix("nix-store").args(["--query", "--requisites", &versions[0]]));
    assert!(!own.contains("windlass-under-test"), "what builds is not what is shipped: {own}");

    // This machine builds; it signs what it puts into the cache, and hosts take nothing else.
    let cache = server.path("cache");
    fs::create_dir(&cache).unwrap();
    let secret = run_ok(nix("nix").args(["key", "generate-secret", "--key-name", "fleet-1"]));
    let secret = env.write("secret", secret.trim());
    let mut public = nix("nix");
    public.args(["key", "convert-secret-to-public"]).stdin(fs::File::open(&secret).unwrap());
    let public = run_ok(&mut public);
    let _web = server.serve("env", &["-C", cache.to_str().unwrap(), "python3", "-c", CACHE], 8080);
    let to = format!("file://{}?compression=zstd&secret-key={}", cache.display(), secret.display());
    run_ok(nix("nix").args(["copy", "--to", &to, &versions[0]]));
    let whole_cache = size(&cache);
    let mut nars = vec![nar_sizes(&cache)];

    let from = "http://10.77.0.1:8080";
    let keys = ["--option", "trusted-public-keys", public.trim()];
    let copy = |host: &NetHost, path: &str, keys: &[&str]| {
        let mut copy = host.command("nix", &[&["copy", "--from", from, path], keys].concat());
        copy.output().unwrap()
    };
    let stranger = "fleet-1:lg6kJzBwiCXV0SgNsMPhDHh9wsnyzu3gGbYYYHBnGsM=";
    let refused = copy(&a, &versions[0], &["--option", "trusted-public-keys", stranger]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("lacks a valid signature"), "{said}");

    let (copied, whole_a) = a.meanwhile(|| copy(&a, &versions[0], &keys));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    a.ok("windlass", &["doctor", "--fix", "--storage-dir", "/nix/var/windlass"]);
    let (loaded, none) = a.meanwhile(|| a.json(&["load", &versions[0]]));
    assert_eq!(
        (&loaded["loaded"], &loaded["failed"], &loaded["network"]),
        (&json!(3), &json!(0), &json!(0)),
        "{loaded}"
    );
    assert_eq!(none.received + none.sent, 0, "a load needs no network");
    assert_eq!(run(&a, &reference(&versions[0], "app")), "one\n");
    assert!(run(&a, &reference(&versions[0], "redis")).starts_with("Redis server v="));
    // Its own collector keeps what it runs.
    let dead = a.ok("nix-store", &["--gc", "--print-dead"]);
    let roots = a.ok("nix-store", &["--query", "--roots", &versions[0]]);
    assert!(!dead.contains("-SmolLM2") && !dead.contains("-python3-") && !roots.is_empty(), "{dead} {roots}");

    // A changed text: this time the cache is written over HTTP, as a builder elsewhere would do it. The builder signs before.
    run_ok(nix("nix").args(["store", "sign", "--recursive", "--key-file"]).arg(&secret).arg(&versions[1]));
    let before = size(&cache);
    run_ok(&mut server.beside("nix", &["copy", "--to", "http://127.0.0.1:8080?compression=zstd", &versions[1]]));
    let changed_cache = size(&cache) - before;
    nars.push(nar_sizes(&cache) - nars[0]);
    let (copied, changed_a) = a.meanwhile(|| copy(&a, &versions[1], &keys));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let again = a.json(&["load", &versions[1]]);
    assert_eq!((&again["loaded"], &again["present"]), (&json!(1), &json!(2)), "{again}");
    assert_eq!(run(&a, &reference(&versions[1], "app")), "two\n");
    assert!(a.ok("windlass", &["verify", "--full"]).contains("all good"));

    // The same from a registry, into a Podman without anything of Nix.
    let _registry = server.registry(None);
    let push = |stack: &str| -> Value {
        let arguments = ["push", stack, "docker://127.0.0.1:5000/ai", "--insecure", "--json"];
        serde_json::from_str(&run_ok(&mut server.beside(env!("CARGO_BIN_EXE_windlass"), &arguments))).unwrap()
    };
    let pull = |stack: &str| {
        ["redis", "app"].map(|name| {
            let own = reference(stack, name);
            let tag = own.rsplit_once(':').unwrap().1;
            let at = format!("10.77.0.1:5000/ai/{name}:{tag}");
            b.ok("podman", &["pull", "--quiet", "--tls-verify=false", &at]);
            at
        })
    };
    let pushed = push(&versions[0]);
    let ([redis, app], whole_b) = b.meanwhile(|| pull(&versions[0]));
    assert_eq!(run(&b, &app), "one\n");
    let mut podman_wrote = vec![layer_sizes(&b)];
    let pushed_again = push(&versions[1]);
    let ([redis_again, app_again], changed_b) = b.meanwhile(|| pull(&versions[1]));
    assert_eq!((redis_again, run(&b, &app_again)), (redis, "two\n".to_owned()));

    podman_wrote.push(layer_sizes(&b) - podman_wrote[0]);

    let store = |host: &NetHost| size(&host.path("nix/store"));
    println!(
        "binary cache: in it {whole_cache}, then {changed_cache}; host A received {} and {}, sent {} and {}, wrote {} of store paths; \
         load wrote {} and {}\nregistry: pushed {} and {}; host B received {} and {}, sent {} and {}",
        whole_a.received,
        changed_a.received,
        whole_a.sent,
        changed_a.sent,
        store(&a),
        loaded["written"],
        again["written"],
        pushed["bytes"],
        pushed_again["bytes"],
        whole_b.received,
        changed_b.received,
        whole_b.sent,
        changed_b.sent
    );
    // What the simulation says of the same history, for one host. It counts images; the stack's own directory is not one, and its model
    // is pushed as an image too.
    let history = json!({ "version": 1, "versions": [{ "title": "first", "directories": [versions[0]] },
        { "title": "another text", "directories": [versions[1]] }] });
    let history = env.write("history.json", history.to_string());
    let report = env.ok(["simulate", "--history", history.to_str().unwrap(), "--hosts", "1", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let cost = |route: &str| {
        let costs = report["costs"].as_array().unwrap();
        costs.iter().find(|cost| cost["scheme"] == "windlass" && cost["route"] == route).unwrap().clone()
    };
    let near = |what: &str, said: &Value, real: u64, overhead: u64| {
        let said = said.as_u64().unwrap();
        println!("{what}: simulated {said}, real {real}");
        assert!(said.abs_diff(real) <= overhead, "{what}: simulated {said}, real {real}");
    };
    let registry = cost("registry");
    let manifests = 30_000;
    near("registry, first", &registry["first"]["received"], pushed["bytes"].as_u64().unwrap(), manifests);
    near("registry, update", &registry["updates"]["received"], pushed_again["bytes"].as_u64().unwrap(), manifests);
    near("written by Podman, first", &registry["first"]["written"], podman_wrote[0], 0);
    near("written by Podman, update", &registry["updates"]["written"], podman_wrote[1], 0);
    let cached = cost("binary-cache");
    // The lean stack is one store path, and comes whole where one of its images changed.
    let whole = Command::new("nix-store").arg("--dump").arg(&versions[1]).output().unwrap().stdout.len() as u64;
    assert_eq!(nars[1], whole, "nothing but the stack changed");
    near("NARs, first", &cached["first"]["received"], nars[0], whole);
    near("NARs, update", &cached["updates"]["received"], nars[1], whole);
    let delta = env.path("delta");
    env.ok(["export", &versions[1], "--bundle", delta.to_str().unwrap(), "--since", &versions[0]]);
    near("bundle, update", &cost("bundle")["updates"]["received"], size(&delta.join("blobs")), 30_000);

    // A lean stack is small beside what it is made of, and an app that changed is small beside that.
    assert!(whole_a.received < whole_cache + whole_cache / 20, "{whole_a:?} {whole_cache}");
    assert!(changed_a.received < 200_000 && changed_cache < 150_000, "{changed_a:?} {changed_cache}");
    let uploaded = pushed["bytes"].as_u64().unwrap();
    assert!(whole_b.received > uploaded && whole_b.received < uploaded + uploaded / 20, "{whole_b:?} {uploaded}");
    assert!(changed_b.received < 200_000, "{changed_b:?}");
}

/// An image with three large layers, built on this machine: busybox prints what it says.
fn large_image(env: &Env) -> String {
    let store = env.path("store");
    let put = |name: &str, file: Option<&str>, bytes: &[u8]| {
        let path = store.join(base_name(name)).join(file.unwrap_or("data"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        run_ok(Command::new("chmod").args(["--recursive", "a=rX"]).arg(store.join(base_name(name))));
        run_ok(Command::new("chmod").arg("0555").arg(&path));
    };
    put("busybox-1", Some("bin/busybox"), &fs::read("/bin/busybox").unwrap());
    let mut state = 1_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .collect()
    };
    let data = ["a-1", "b-1", "c-1"];
    data.iter().for_each(|name| put(name, None, &noise(8_000_000)));
    let paths: Vec<(&str, &[&str])> = ["busybox-1"].into_iter().chain(data).map(|name| (name, &[][..])).collect();
    env.write("closure.json", closure(store.to_str().unwrap(), &store, &paths));
    let path = |name: &str| format!("{}/{}", store.display(), base_name(name));
    let spec = json!({ "kind": "image", "name": "app", "storeDir": store, "content": { "deps": data.map(path) },
        "config": { "Cmd": [format!("{}/bin/busybox", path("busybox-1")), "echo", "here"] } });
    env.write("app.json", spec.to_string());
    env.ok(["build", "app.json", "--closure", "closure.json", "--output", "app"]);
    env.path("app").to_str().unwrap().to_owned()
}

/// Makes an image of what was fetched, and runs it.
fn use_fetched(host: &NetHost, lock: &Value, fetched: &Value) -> String {
    let raw = lock["images"]["app"]["locked"]["root"]["raw"].as_str().unwrap();
    let manifest: Value = serde_json::from_str(raw).unwrap();
    let blob = |descriptor: &Value| fetched["blobs"][descriptor["digest"].as_str().unwrap()]["path"].clone();
    let layers: Vec<Value> = manifest["layers"].as_array().unwrap().iter().map(blob).collect();
    let spec = json!({ "kind": "upstream", "name": "app", "manifest": raw, "config": blob(&manifest["config"]),
        "layers": layers, "source": "10.77.0.1:5000/team/app:1" });
    fs::write(host.path("app.json"), spec.to_string()).unwrap();
    let [spec, image] = ["app.json", "app"].map(|name| host.path(name).to_str().unwrap().to_owned());
    host.ok("windlass", &["build", &spec, "--output", &image]);
    host.ok("windlass", &["load", &image]);
    let summary: Value = serde_json::from_slice(&fs::read(host.path("app/image.json")).unwrap()).unwrap();
    run(host, summary["ref"].as_str().unwrap())
}

#[test]
fn hosts_fetch_from_a_mirror_one_is_cut_off_and_one_is_slow() {
    let env = Env::new();
    let switch = Switch::new();
    let [upstream, mirror, a, b, c] =
        [("upstream", 1), ("mirror", 2), ("a", 3), ("b", 4), ("c", 5)].map(|(name, n)| switch.host(&env, name, n));
    let (key, certificate) = (env.path("tls.key"), env.path("tls.pem"));
    let options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry \
         -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,IP:10.77.0.1,IP:10.77.0.2";
    let mut openssl = Command::new("openssl");
    run_ok(openssl.args(options.split_whitespace()).arg("-keyout").arg(&key).arg("-out").arg(&certificate));
    let _registries = [&upstream, &mirror].map(|host| host.registry(Some((&key, &certificate))));
    let trust = ["--ca-file", certificate.to_str().unwrap()];
    let image = large_image(&env);
    let to = "docker://127.0.0.1:5000/team/app:1";
    run_ok(&mut upstream.beside(env!("CARGO_BIN_EXE_windlass"), &[&["push", &image, to], &trust[..]].concat()));

    // The mirror's own machine locks the image and copies it, once for all.
    let file = env.path("images.lock.json");
    let lock = ["--lock", file.to_str().unwrap()];
    let mirrored = upstream.meanwhile(|| {
        mirror.ok("windlass", &[&["upstream", "add", "app", "10.77.0.1:5000/team/app:1"], &trust[..], &lock].concat());
        let to = ["upstream", "mirror", "--to", "docker://10.77.0.2:5000/m", "--set-source"];
        mirror.ok("windlass", &[&to[..], &trust, &lock].concat())
    });
    let (_, upstream_once) = mirrored;
    let document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(document["images"]["app"]["source"], "mirror");
    let sizes = document["blobs"].as_object().unwrap().values().map(|blob| blob["size"].as_u64().unwrap());
    let all: u64 = sizes.sum();
    assert!(all > 24_000_000 && (all..all + all / 10).contains(&upstream_once.sent), "{upstream_once:?} {all}");

    let fetch = [&["upstream", "fetch", "--json"], &trust[..], &lock].concat();
    let fetched = |host: &NetHost| -> Value { serde_json::from_str(&host.ok("windlass", &fetch)).unwrap() };
    let quiet = upstream.traffic();

    // C is slow, and for as long as that takes the others go on.
    c.slow(40);
    let start = Instant::now();
    let mut slow = c.windlass(&fetch).stdout(Stdio::piped()).spawn().unwrap();
    let c_before = c.traffic();

    let (report, got_a) = a.meanwhile(|| fetched(&a));
    assert_eq!(report["network"], json!(all), "{report}");
    assert_eq!(use_fetched(&a, &document, &report), "here\n");
    let (again, nothing) = a.meanwhile(|| fetched(&a));
    assert_eq!((&again["network"], nothing), (&json!(0), crate::net_hosts::Traffic { received: 0, sent: 0 }));

    // B's cable is pulled out in the middle; what is there then is not asked for again.
    b.slow(80);
    let b_before = b.traffic();
    let mut child = b.windlass(&[&fetch[..], &["--retries", "0"]].concat());
    let mut child =
        child.env("WINDLASS_NETWORK_WAIT", "2").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while b.traffic().received - b_before.received < 12_000_000 {
        assert!(child.try_wait().unwrap().is_none(), "fetched before it could be cut off");
        std::thread::sleep(Duration::from_millis(5));
    }
    b.cable(false);
    let cut = child.wait_with_output().unwrap();
    let said = String::from_utf8(cut.stderr).unwrap();
    assert!(!cut.status.success() && said.contains("10.77.0.2:5000"), "{said}");
    let first_b = b.traffic().received - b_before.received;
    b.cable(true);
    let (report, second_b) = b.meanwhile(|| fetched(&b));
    assert_eq!(use_fetched(&b, &document, &report), "here\n");
    let rest = report["network"].as_u64().unwrap();
    assert!(rest < all - 8_000_000, "{rest} of {all} came again");
    let both = first_b + second_b.received;
    assert!(both < all + all / 10, "{first_b} and {} of {all}", second_b.received);

    let status = slow.wait().unwrap();
    let took = start.elapsed().as_secs_f64();
    let got_c = c.traffic().received - c_before.received;
    assert!(status.success() && took > all as f64 * 8.0 / 40e6 * 0.9, "{status}: {took} s for {got_c}");
    let quiet_after = upstream.traffic();
    assert!(quiet_after.sent - quiet.sent < 20_000, "hosts asked upstream: {quiet:?} {quiet_after:?}");
    println!(
        "blobs {all}; upstream sent {} once; A {}; B {first_b} and, after the cut, {}; C {got_c} in {took:.1} s",
        upstream_once.sent, got_a.received, second_b.received
    );
}
