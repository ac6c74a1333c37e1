//! Files that another user may have written: of any size, and FIFOs in their place. Nothing is read without a limit, and
//! nothing is waited for.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::engine::Said;
use crate::env::{Env, run_ok};
use crate::lab::Lab;

/// More than a run may have: 4 GiB.
const LARGE: u64 = 4 << 30;

/// The same run with at most 1 GiB of memory, and at most a minute, which no such run takes.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("prlimit");
    limited.args(["--as=1073741824", "timeout", "60"]).arg(command.get_program()).args(command.get_args());
    limited.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.env("HOME", "/nonexistent").current_dir(command.get_current_dir().unwrap());
    limited
}

/// Puts something that is not to be read in the place of a file.
fn in_place(path: &Path, large: bool) {
    drop(fs::remove_file(path));
    if large {
        fs::File::create(path).unwrap().set_len(LARGE).unwrap();
    } else {
        run_ok(Command::new("mkfifo").arg(path));
    }
}

fn refused(said: &Said, file: &str, large: bool) {
    let why = if large { "it is larger than" } else { "it is not a file" };
    assert!(said.code > 0 && said.code < 10, "{file}: {said:?}");
    assert!(said.stderr.contains(file) && said.stderr.contains(why), "{file}: {said:?}");
}

#[test]
fn no_input_of_any_verb_is_read_without_a_limit() {
    let env = Env::new();
    let image = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "copyToRoot": [env.path("input")] } });
    env.write("input/etc/app", "app");
    env.write("good.json", image.to_string());
    env.write("good.yml", "services: { a: { image: 'example.com/a:1' } }\n");
    env.write("with-env.yml", "services: { a: { image: 'example.com/a:1', env_file: bad.env } }\n");
    env.write("extended.yml", "services: { a: { extends: { file: bad.yml, service: a } } }\n");
    env.write("named", env.path("nothing").to_str().unwrap());
    for large in [true, false] {
        for (arguments, file) in [
            ("build bad.json --output out", "bad.json"),
            ("build good.json --closure bad.json --output out", "bad.json"),
            ("plan bad.json", "bad.json"),
            ("plan good.json --closure bad.json", "bad.json"),
            ("compose import bad.yml", "bad.yml"),
            ("compose import good.yml --env-file bad.env", "bad.env"),
            ("compose import extended.yml", "bad.yml"),
            ("upstream import bad.yml", "bad.yml"),
            ("upstream import bad.json", "bad.json"),
            ("upstream list --lock bad.json", "bad.json"),
            ("upstream check --lock bad.json", "bad.json"),
            ("upstream add a example.com/a:1 --lock bad.json --pending", "bad.json"),
            ("upstream add a example.com/a:1 --cosign-key bad.pem", "bad.pem"),
            ("upstream add a example.com/a:1 --ca-file bad.pem", "bad.pem"),
            ("model add input/etc/app --to bad.json", "bad.json"),
            ("model inspect bad.gguf", "bad.gguf"),
        ] {
            in_place(&env.path(file), large);
            let said = Said::of(&limited(&env.windlass(arguments.split(' '))).output().unwrap());
            if file == "bad.gguf" {
                // Only the head of a model is read, and anything else is not a model.
                assert!(said.code > 0 && said.code < 10, "{said:?}");
            } else {
                refused(&said, file, large);
            }
            fs::remove_file(env.path(file)).unwrap();
            assert!(!env.path("out").exists());
        }
        // What a compose file names beside itself is a note in the answer, or ends it.
        in_place(&env.path("bad.env"), large);
        let said = Said::of(&limited(&env.windlass(["compose", "import", "with-env.yml"])).output().unwrap());
        assert!((0..10).contains(&said.code), "{said:?}");
        fs::remove_file(env.path("bad.env")).unwrap();
    }
}

#[test]
fn no_file_of_an_image_directory_or_a_model_is_read_without_a_limit() {
    let env = Env::new();
    env.write("input/etc/app", "app");
    let image = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "copyToRoot": [env.path("input")] } });
    env.write("image.json", image.to_string());
    let mut inner = image;
    inner.as_object_mut().unwrap().remove("kind");
    let stack = json!({ "kind": "stack", "name": "all", "images": [inner] });
    env.write("stack.json", stack.to_string());
    for (spec, output) in [("image.json", "image"), ("stack.json", "stack")] {
        env.ok(["build", spec, "--output", output]);
    }
    let files: Vec<_> = env.tree().into_iter().filter(|path| path.is_file()).collect();
    let below = |folder: &str| -> Vec<_> {
        files.iter().filter_map(|path| path.strip_prefix(env.path(folder)).ok().map(Path::to_owned)).collect()
    };
    let mut tried = 0;
    for folder in ["image", "stack"] {
        for file in below(folder) {
            for large in [true, false] {
                run_ok(Command::new("cp").arg("-rT").args([env.path(folder), env.path("bad")]));
                in_place(&env.path("bad").join(&file), large);
                for arguments in
                    [&["inspect", "bad"][..], &["export", "bad", "--output", "bad.tar"], &["diff", "bad", folder]]
                {
                    let said = Said::of(&limited(&env.windlass(arguments)).output().unwrap());
                    // Not every verb needs every file.
                    assert!((0..10).contains(&said.code), "{} {arguments:?}: {said:?}", file.display());
                    tried +=
                        usize::from(said.code > 0 && said.stderr.contains(file.file_name().unwrap().to_str().unwrap()));
                }
                fs::remove_dir_all(env.path("bad")).unwrap();
                drop(fs::remove_file(env.path("bad.tar")));
            }
        }
    }
    assert!(tried > 20, "only {tried} runs named the file");

    // A model of many files, of which each is one that is looked at.
    for file in [
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ] {
        for large in [true, false] {
            fs::create_dir(env.path("model")).unwrap();
            env.write("model/config.json", "{}");
            in_place(&env.path("model").join(file), large);
            let said = Said::of(&limited(&env.windlass(["model", "inspect", "model"])).output().unwrap());
            assert!((0..10).contains(&said.code), "{file}: {said:?}");
            fs::remove_dir_all(env.path("model")).unwrap();
        }
    }
}

/// What root's gc says on a host with these users.
fn gc_beside(lab: &Lab, passwd: &Path) -> Said {
    let mut command = lab.command("unshare");
    let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
    command.args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]).arg(passwd);
    command.args(["prlimit", "--as=1073741824", "timeout", "60", env!("CARGO_BIN_EXE_windlass"), "gc"]);
    Said::of(&command.output().unwrap())
}

#[test]
fn gc_of_root_lists_what_other_users_have_with_a_limit_and_follows_no_link_of_theirs() {
    let lab = Lab::new(true);
    lab.load(1, 10_000);
    let home = lab.env.path("her");
    let passwd =
        lab.env.write("passwd", format!("root:x:0:0::/root:/bin/sh\nher:x:1001:1001::{}:/bin/sh\n", home.display()));
    let root = home.join(".local/share/containers/storage");
    let secret = lab.env.write("secret.json", r#"{"version":"root's alone"}"#);
    let (conf, state) = (home.join(".config/containers/storage.conf.d"), root.join("windlass"));
    let many = |folder: &Path, count: usize, name: fn(usize) -> String| {
        fs::create_dir_all(folder).unwrap();
        (0..count).for_each(|n| fs::write(folder.join(name(n)), "").unwrap());
    };
    let link = |from: &Path| {
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&secret, from).unwrap();
    };
    let lines: &[(&dyn Fn(), &str)] = &[
        (&|| many(&conf, 100, |n| format!("{n}.conf")), ""),
        (&|| many(&conf, 101, |n| format!("{n}.conf")), "storage.conf.d: it has more than 100 files"),
        (&|| many(&state.join("generations"), 10_001, |n| n.to_string()), "generations: it has more than 10000 names"),
        (&|| many(&state.join("models"), 10_001, |n| format!("m{n}")), "models: it has more than 10000 names"),
        (&|| link(&state.join("generations/1/generation.json")), "generation.json: it is a link"),
        (&|| link(&state.join("models/.held/a/model.json")), ""),
        (&|| link(&state.join("models/.state/chat.json")), "chat.json: it is a link"),
        (&|| link(&state), "windlass: it is a link"),
    ];
    for (make, said) in lines {
        fs::create_dir_all(&root).unwrap();
        make();
        let answer = gc_beside(&lab, &passwd);
        let text = format!("{}{}", answer.stdout, answer.stderr);
        assert!(answer.code == 0 && text.contains(said) && !text.contains("alone"), "{said}: {text}");
        fs::remove_dir_all(&home).unwrap();
    }
}

#[test]
fn gc_of_root_reads_settings_and_records_of_other_users_with_a_limit() {
    let lab = Lab::new(true);
    lab.load(1, 10_000);
    let home = lab.env.path("her");
    let own = |name: &str| home.join(name);
    let passwd =
        lab.env.write("passwd", format!("root:x:0:0::/root:/bin/sh\nher:x:1001:1001::{}:/bin/sh\n", home.display()));
    let root = ".local/share/containers/storage";
    for (file, said) in [
        (".config/containers/storage.conf".to_owned(), "where a user of this host has images is not known"),
        (".config/containers/storage.conf.d/a.conf".to_owned(), "where a user of this host has images is not known"),
        (format!("{root}/overlay-containers/containers.json"), "containers of another graph root cannot be seen"),
        (format!("{root}/overlay-images/images.json"), "containers of another graph root cannot be seen"),
        (format!("{root}/overlay-layers/layers.json"), "containers of another graph root cannot be seen"),
    ] {
        for large in [true, false] {
            fs::create_dir_all(own(&file).parent().unwrap()).unwrap();
            for kind in ["images", "layers", "containers"] {
                let records = own(root).join(format!("overlay-{kind}/{kind}.json"));
                fs::create_dir_all(records.parent().unwrap()).unwrap();
                fs::write(records, "[]").unwrap();
            }
            in_place(&own(&file), large);
            let answer = gc_beside(&lab, &passwd);
            assert_eq!(answer.code, 0, "{file} {large}: {answer:?}");
            let why = if large { "it is larger than" } else { "it is not a file" };
            let text = format!("{}{}", answer.stdout, answer.stderr);
            let line = text.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{file}: {text}"));
            assert!(line.contains(&file) && line.contains(why), "{line}");
            fs::remove_dir_all(&home).unwrap();
        }
    }
}

#[test]
fn a_blob_of_another_size_than_is_said_is_refused_by_name() {
    let env = Env::new();
    env.write("input/etc/app", "app");
    let image = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "copyToRoot": [env.path("input")] } });
    env.write("image.json", image.to_string());
    env.ok(["build", "image.json", "--output", "image"]);
    let index = env.path("image/index.json");
    let text = fs::read_to_string(&index).unwrap();
    let told = serde_json::from_str::<serde_json::Value>(&text).unwrap()["manifests"][0]["size"].as_u64().unwrap();
    fs::write(&index, text.replace(&format!("\"size\":{told}"), "\"size\":7")).unwrap();
    for arguments in [&["inspect", "image"][..], &["export", "image", "--output", "image.tar"]] {
        let (code, said) = env.fails(arguments);
        assert!(code > 0 && said.contains("image/index.json"), "{said}");
        assert!(said.contains(&format!("of localhost/app:1 has 7 bytes, and it has {told}")), "{said}");
    }
}

#[test]
fn a_manifest_that_an_index_names_has_the_size_that_it_says() {
    let env = Env::new();
    for (platform, name) in [("linux/amd64", "x"), ("linux/arm64", "y")] {
        let image = json!({ "kind": "image", "name": "app", "tag": "1", "platform": platform });
        env.write("image.json", image.to_string());
        env.ok(["build", "image.json", "--output", name]);
    }
    env.write("index.json", json!({ "kind": "index", "name": "app", "images": ["x", "y"] }).to_string());
    env.ok(["build", "index.json", "--output", "index"]);
    env.ok(["inspect", "index"]);
    let file = |digest: &str| env.path("index/blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let named = fs::read_to_string(env.path("index/index.json")).unwrap();
    let top: serde_json::Value = serde_json::from_str(&named).unwrap();
    let digest = top["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let good = fs::read_to_string(file(&digest)).unwrap();
    let children: serde_json::Value = serde_json::from_str(&good).unwrap();
    let child = &children["manifests"][1];
    // An index that is whole, of its own digest and size, but for what it says of one of its manifests.
    let put = |text: &str| {
        let new = windlass::internals::oci::digest::Digest::of(text.as_bytes()).to_string();
        fs::write(file(&new), text).unwrap();
        let sizes = [good.len(), text.len()].map(|size| format!("\"size\":{size}"));
        fs::write(env.path("index/index.json"), named.replace(&digest, &new).replace(&sizes[0], &sizes[1])).unwrap();
        let summary = fs::read_to_string(env.path("index/image.json")).unwrap();
        let old = serde_json::from_str::<serde_json::Value>(&summary).unwrap()["digest"].as_str().unwrap().to_owned();
        fs::write(env.path("index/image.json"), summary.replace(&old, &new)).unwrap();
        env.fails(["inspect", "index"]).1
    };
    let told = child["size"].as_u64().unwrap();
    let said = put(&good.replacen(&format!("\"size\":{told}"), "\"size\":7", 2));
    assert!(said.contains("has 7 bytes, and it has"), "{said}");
    let said = put(&good.replace(child["digest"].as_str().unwrap(), &format!("sha256:{}", "a".repeat(64))));
    assert!(said.contains(&format!("does not name {}", child["digest"].as_str().unwrap())), "{said}");
}

#[test]
fn what_podman_keeps_of_an_image_has_the_size_that_its_record_says() {
    let lab = Lab::new(true);
    let name = lab.load(1, 10_000);
    lab.ok(&["verify"]);
    let records = lab.storage().join("overlay-images/images.json");
    let mut all: serde_json::Value = serde_json::from_str(&fs::read_to_string(&records).unwrap()).unwrap();
    let sizes = all[0]["big-data-sizes"].as_object_mut().unwrap();
    let config = sizes.keys().find(|name| name.starts_with("sha256:")).unwrap().clone();
    let size = std::mem::replace(&mut sizes[&config], json!(7));
    fs::write(&records, all.to_string()).unwrap();
    let said = Said::of(&lab.windlass(&["verify"]).output().unwrap());
    let text = format!("says that {config} has 7 bytes, and it has {size}");
    assert!(said.code == 4 && said.stdout.contains(&text) && said.stdout.contains(&name), "{said:?}");
    lab.ok(&["repair"]);
    lab.ok(&["verify"]);
}

#[test]
fn an_oci_directory_is_imported_only_if_every_size_is_true() {
    let env = Env::new();
    env.write("input/etc/app", "app");
    let image = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "copyToRoot": [env.path("input")] } });
    env.write("image.json", image.to_string());
    env.ok(["build", "image.json", "--output", "image"]);
    env.ok(["export", "image", "--format", "oci", "--output", "oci"]);
    let index = fs::read_to_string(env.path("oci/index.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&index).unwrap();
    let size = value["manifests"][0]["size"].as_u64().unwrap();
    let spec = json!({ "kind": "oci", "name": "app", "layout": env.path("oci") });
    env.write("oci.json", spec.to_string());
    env.ok(["build", "oci.json", "--output", "good"]);
    fs::write(env.path("oci/index.json"), index.replace(&format!("\"size\":{size}"), "\"size\":7")).unwrap();
    let (_, said) = env.fails(["build", "oci.json", "--output", "bad"]);
    assert!(said.contains(&format!("has 7 bytes, and it has {size}")), "{said}");
    // And the config that the manifest names.
    let digest = value["manifests"][0]["digest"].as_str().unwrap();
    let file = |digest: &str| env.path("oci/blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let manifest = fs::read_to_string(file(digest)).unwrap();
    let told = serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["config"]["size"].as_u64().unwrap();
    let other = manifest.replace(&format!("\"size\":{told}"), "\"size\":7");
    let new = windlass::internals::oci::digest::Digest::of(other.as_bytes()).to_string();
    fs::write(file(&new), &other).unwrap();
    let index = index.replace(digest, &new).replace(&format!("\"size\":{size}"), &format!("\"size\":{}", other.len()));
    fs::write(env.path("oci/index.json"), index).unwrap();
    let (_, said) = env.fails(["build", "oci.json", "--output", "bad"]);
    assert!(said.contains(&format!("says that the config has 7 bytes, and it has {told}")), "{said}");
}
