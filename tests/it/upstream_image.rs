//! Images that were not built here: as image directories, in stacks, and built upon.

use serde_json::{Value, json};

use crate::engine::{Podman, Said};
use crate::env::Env;
use crate::foreign::{Foreign, read};
use crate::nix::{build, try_eval};
use crate::registry_server::RealRegistry;

fn config_of(image: &std::path::Path) -> Value {
    let digest = read(&image.join("image.json"))["platforms"][0]["configDigest"].as_str().unwrap().to_owned();
    read(&image.join("blobs/sha256").join(&digest[7..]))
}

#[test]
fn an_image_of_a_lock_keeps_its_digest_and_names_its_blobs() {
    let env = Env::new();
    let foreign = Foreign::new(&env);
    let lock = env.write("images.lock.json", foreign.lock("others").to_string());
    let image = build(&format!(r#"w.fetchImage {{ lock = {}; name = "others"; }}"#, lock.display())).unwrap();
    let summary = read(&image.join("image.json"));
    assert_eq!(summary["digest"], foreign.digest().to_string());
    assert_eq!(summary["origin"]["reference"], "example.com/others/others:1.0");
    let owners: Vec<&str> = summary["platforms"][0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["owners"][0].as_str().unwrap())
        .collect();
    assert!(
        owners.iter().all(|owner| owner.starts_with("/nix/store/") && owner.contains("-oci-blob-sha256-")),
        "{owners:?}"
    );
    assert!(env.ok(["verify", "--full", image.to_str().unwrap()]).contains("all good"));
    // Other tools read what is exported.
    env.ok(["export", image.to_str().unwrap(), "--format", "oci", "--output", "oci"]);
    let raw = crate::env::run_ok(
        std::process::Command::new("skopeo")
            .args(["inspect", "--raw"])
            .arg(format!("oci:{}", env.path("oci").display())),
    );
    assert_eq!(raw.trim_end(), foreign.manifest.trim_end());
}

#[test]
fn from_a_registry_to_a_container_without_a_network() {
    let podman = Podman::linked();
    let env = &podman.env;
    // Bytes that no store has yet.
    let text = env.path("").file_name().unwrap().to_string_lossy().into_owned();
    let foreign = Foreign::with(env, &text);
    let mut registry = RealRegistry::start(env);
    foreign.push(env, &registry.host, "a/others");
    let reference = format!("{}/a/others:1.0", registry.host);
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    env.ok(["upstream", "add", "others", &reference, "--insecure", "--platform", &platform]);
    let lock = env.path("images.lock.json");
    let expression = format!(
        r#"w.buildStack {{ images = [ (w.fetchImage {{ lock = {}; name = "others"; }}) (w.buildImage {{ name = "app";
        fromImage = w.fetchImage {{ lock = {}; name = "others"; }}; config.Env = [ "LEVEL=2" ]; texts."/three" = "three\n"; }}) ]; }}"#,
        lock.display(),
        lock.display()
    );
    let stack = build(&format!("({expression}).lean")).unwrap();
    registry.stop();
    let load = || {
        let load = podman.windlass(&["load", stack.to_str().unwrap()]);
        let program = load.get_program().to_owned();
        let mut alone = podman.command("unshare");
        alone
            .arg("--net")
            .arg(program)
            .args(load.get_args())
            .envs(load.get_envs().filter_map(|(name, value)| Some((name, value?))));
        alone.current_dir(load.get_current_dir().unwrap_or(env.path("").as_path()));
        Said::of(&alone.output().unwrap())
    };
    let said = load();
    assert_eq!(said.code, 0, "{said:?}");
    assert!(load().stdout.contains("2 present; wrote 0 B; network 0 bytes"));
    let json = read(&stack.join("stack.json"));
    let names: Vec<&str> =
        json["images"].as_array().unwrap().iter().map(|image| image["ref"].as_str().unwrap()).collect();
    for (name, command, expected) in [
        (names[1], &[][..], format!("{text}\n")),
        (names[0], &["cat", "/etc/two", "/three"], format!("{text}\nthree\n")),
        (
            names[0],
            &["sh", "-c", "echo $LEVEL; ls /etc/gone || id -u; ls -ld /tmp | cut -c1-10"],
            "2\n1000\ndrwxrwxrwt\n".to_owned(),
        ),
    ] {
        let run = ["run", "--rm", "--pull=never", "--network=none", name];
        assert_eq!(podman.run(&[&run, command].concat()), expected);
    }
}

#[test]
fn a_lock_is_checked_when_it_is_evaluated() {
    let env = Env::new();
    let foreign = Foreign::new(&env);
    let good = foreign.lock("others");
    let fails = |change: &dyn Fn(&mut Value), arguments: &str| {
        let mut lock = good.clone();
        change(&mut lock);
        let lock = env.write("images.lock.json", lock.to_string());
        let call = format!(
            r#"(w.fetchImage ({{ lock = {}; name = "others"; }} // {{ {arguments} }})).imageRef"#,
            lock.display()
        );
        try_eval(&call).unwrap_err()
    };
    let image = |lock: &mut Value| lock["images"]["others"].take();
    type Change<'c> = &'c dyn Fn(&mut Value);
    let cases: [(Change<'_>, &str, &str); 6] = [
        (&|lock| lock["version"] = json!(2), "", "the lock is of version 2, and this windlass knows version 1"),
        (&|lock| drop(image(lock)), "name = \"other\";", "there is no image 'other' in the lock; there are: others"),
        (
            &|lock| lock["images"]["others"]["locked"] = Value::Null,
            "",
            "others is not resolved yet; run `windlass upstream update --image others`",
        ),
        (
            &|lock| lock["images"]["others"]["locked"]["root"]["raw"] = json!("{}"),
            "",
            "the lock is damaged: the index of others",
        ),
        (
            &|lock| {
                let platforms = lock["images"]["others"]["locked"]["platforms"].as_object_mut().unwrap();
                platforms.values_mut().for_each(|platform| platform["manifest"]["raw"] = json!("{ }"));
            },
            "",
            "the lock is damaged: the manifest for linux/",
        ),
        (&|_| {}, "platform = \"linux/riscv64\";", "and not for linux/riscv64"),
    ];
    for (change, arguments, expected) in cases {
        let error = fails(change, arguments);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let env = Env::new();
    let foreign = Foreign::new(&env);
    let fails = |change: &dyn Fn(&mut Value), code: i32, expected: &str| {
        let mut spec = foreign.spec("others");
        change(&mut spec);
        let spec = env.write("others.json", spec.to_string());
        let (found, message) = env.fails(["build", spec.to_str().unwrap()]);
        assert!(message.contains(expected), "{expected}: {message}");
        assert_eq!(found, code, "{message}");
        assert!(!env.path("others").exists());
    };
    let bytes = std::fs::read(&foreign.layers[0]).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let flipped = env.write("flipped", flipped);
    let cut = env.write("cut", &bytes[..bytes.len() - 9]);
    fails(&|spec| spec["layers"][0] = json!(flipped), 1, "layer");
    fails(&|spec| spec["layers"][0] = json!(cut), 1, "bytes, and the manifest says");
    fails(&|spec| spec["config"] = json!(flipped), 1, "it should have the digest sha256:");
    fails(
        &|spec| drop(spec["layers"].as_array_mut().unwrap().pop()),
        1,
        "its manifest has 2 layers, its config 2, and 1 files were given",
    );
    fails(&|spec| spec["platform"] = json!("linux/riscv64"), 1, "and linux/riscv64 was asked for");
    fails(&|spec| spec["manifest"] = json!("<html>"), 1, "its manifest is not JSON");
}

#[test]
fn an_image_is_built_upon_another() {
    let env = Env::new();
    let base = Foreign::new(&env).build(&env, "others");
    let model = env.write("m.gguf", vec![7; 2_000_000]);
    let spec = json!({ "kind": "image", "name": "app", "fromImage": base,
        "models": [{ "spec": { "name": "m", "files": { "m.gguf": model } } }],
        "content": { "texts": { "/etc/three": "three\n" } },
        "config": { "Env": ["LEVEL=2", "MORE=1"], "Cmd": ["cat", "/etc/two", "/etc/three"] } });
    let spec = env.write("app.json", spec.to_string());
    env.ok(["build", spec.to_str().unwrap()]);
    let (image, base) = (read(&env.path("app/image.json")), read(&base.join("image.json")));
    let layers = |image: &Value| image["platforms"][0]["layers"].as_array().unwrap().clone();
    let (all, below) = (layers(&image), layers(&base));
    let kinds: Vec<&str> = all.iter().map(|layer| layer["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["model", "base", "base", "root"]);
    assert_eq!([&all[1]["digest"], &all[2]["digest"]], [&below[0]["digest"], &below[1]["digest"]], "untouched");
    let config = config_of(&env.path("app"));
    assert_eq!(config["config"]["Env"], json!(["PATH=/usr/bin", "LEVEL=2", "MORE=1"]));
    assert_eq!(config["config"]["User"], "1000");
    assert_eq!(config["config"]["Healthcheck"]["Test"], json!(["CMD", "true"]), "what windlass does not know");
    let history: Vec<&str> =
        config["history"].as_array().unwrap().iter().map(|entry| entry["created_by"].as_str().unwrap()).collect();
    assert_eq!(history[1..4], ["ADD one", "ENV LEVEL=1", "ADD two"]);

    let podman = Podman::new();
    let image = env.path("app");
    let said = podman.load(&image, &[]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let name = read(&image.join("image.json"))["ref"].as_str().unwrap().to_owned();
    let run =
        |command: &[&str]| podman.run(&[&["run", "--rm", "--pull=never", "--network=none", &name], command].concat());
    assert_eq!(run(&[]), "two\nthree\n");
    assert_eq!(run(&["id", "-u"]), "1000\n");
    assert_eq!(
        run(&["ls", "/etc", "/models", "/data"]),
        "/data:\nagain\nstays\n\n/etc:\ngroup\nhostname\nhosts\nmtab\npasswd\nthree\ntwo\n\n/models:\nm.gguf\n"
    );
}

#[test]
fn what_would_hide_something_is_refused() {
    let env = Env::new();
    let base = Foreign::new(&env).build(&env, "others");
    let model = env.write("m.gguf", vec![7; 2_000]);
    let fails = |spec: Value, expected: &str| {
        let spec = env.write("app.json", spec.to_string());
        let (_, message) = env.fails(["build", spec.to_str().unwrap()]);
        assert!(message.contains(expected), "{expected}: {message}");
    };
    let model = |place: &str| json!([{ "spec": { "name": "m", "mountPath": place, "files": { "stays": model } } }]);
    let app = |models: Value, texts: Value| json!({ "kind": "image", "name": "app", "fromImage": base, "models": models, "content": { "texts": texts } });
    fails(app(model("/data"), json!({})), "has /data/stays where model 'm' is to be, and would hide it");
    fails(app(model("/bin"), json!({})), "has /bin where model 'm' is to be, and would hide it");
    fails(app(json!([]), json!({ "/bin/x": "x" })), "has a link at /bin");
}
