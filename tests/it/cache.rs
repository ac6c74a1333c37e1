//! The build cache: an image is built once, loaded ever after, also from a clone on another machine, and nothing that goes wrong
//! with it is lost or goes unnoticed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cache_key::{project, project_in, row};
use crate::engine::{Podman, Said, as_user, untimed};
use crate::env::run_ok;

fn cache(podman: &Podman, words: &[&str]) -> Said {
    podman.said(&[&["cache"], words, &["--project", "project", "--quiet"]].concat())
}

/// What a container of the image prints.
fn printed(podman: &Podman) -> String {
    podman.run(&["run", "--rm", "--pull=never", "--network=none", "localhost/unit:cache"])
}

fn change(podman: &Podman, text: &str) {
    podman.env.write("project/src/a.txt", text);
}

fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let all = fs::read_dir(folder.join("cache/unit")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.join("entry.json").is_file()).collect()
}

fn git(folder: &Path, words: &[&str]) -> String {
    let mut git = Command::new("git");
    git.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]).args(words);
    run_ok(&mut git)
}

/// The blob of the top layer of an entry.
fn top_layer(entry: &str) -> PathBuf {
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(Path::new(entry).join(name)).unwrap()).unwrap();
    let layers = read("images/unit/image.json")["platforms"][0]["layers"].clone();
    let digest = layers.as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned();
    Path::new(entry).join("blobs/sha256").join(&digest[7..])
}

#[test]
fn what_was_built_once_is_never_built_again() {
    let podman = project();
    podman.env.write("project/.containerignore", "*.log\n/skip/\n ./src/../other \n");
    for name in ["skip/a", "other/b", "x.log"] {
        podman.env.write(Path::new("project").join(name), "ignored");
    }
    let first = row(&podman, &["update"]);
    assert_eq!((printed(&podman).as_str(), &first["action"]), ("one", &"build".into()));
    // What the key has is what the image has.
    let inputs = fs::read(Path::new(first["entry"].as_str().unwrap()).join("inputs.json")).unwrap();
    let inputs: Value = serde_json::from_slice(&inputs).unwrap();
    let ours: Vec<String> = inputs["context"].as_object().unwrap().keys().map(|path| format!("/src/{path}")).collect();
    let found = podman.run(&[
        "run",
        "--rm",
        "--pull=never",
        "--network=none",
        "localhost/unit:cache",
        "/bin/busybox",
        "find",
        "/src",
        "-type",
        "f",
    ]);
    let mut theirs: Vec<&str> = found.lines().collect();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
    let inspected =
        podman.run(&["image", "inspect", "--format", "{{.Digest}} {{.Created.Unix}}", "localhost/unit:cache"]);
    assert_eq!(inspected.trim(), format!("{} 315532800", first["digest"].as_str().unwrap()));

    change(&podman, "two");
    assert!(cache(&podman, &["load"]).stderr.contains("unit: no entry has its key"));
    let said = cache(&podman, &["update", "--dry-run"]);
    assert!(
        said.stdout.starts_with("unit: miss, would build") && said.stdout.contains("changed: file src/a.txt"),
        "{said:?}"
    );
    assert_eq!((row(&podman, &["update"])["action"].as_str(), printed(&podman).as_str()), (Some("build"), "two"));
    // Back: it is in Podman, and its name leads to it again.
    change(&podman, "one");
    assert_eq!(row(&podman, &["status"])["presence"], "unnamed");
    assert_eq!((row(&podman, &["update"])["action"].as_str(), printed(&podman).as_str()), (Some("load"), "one"));
    assert_eq!(row(&podman, &["update"])["action"], "nothing");
    let status = podman.said(&["status"]);
    assert!(status.code == 0 && status.stdout.contains("localhost/unit:cache"), "{status:?}");

    // The exit code is that of the command, and the command can change what is loaded first.
    change(&podman, "two");
    let sh = ["run", "unit", "--network=none", "--", "/bin/busybox", "sh", "-c", "cat /src/src/a.txt; exit 7"];
    let run = |options: &[&str]| podman.said(&[&["cache", sh[0], "--project", "project"], options, &sh[1..]].concat());
    let said = run(&["--quiet"]);
    assert_eq!((said.code, said.stdout.as_str()), (7, "two"), "{said:?}");
    let said = run(&["--rebuild"]);
    assert!(said.code == 7 && said.stdout == "two" && !said.stderr.contains("Using cache"), "{said:?}");
    assert_eq!(entries(&podman.env.path("project")).len(), 2, "a build takes the place of one with the same key");

    // An entry is an image for other tools.
    let entry = row(&podman, &["status"])["entry"].as_str().unwrap().to_owned();
    run_ok(Command::new("skopeo").args(["inspect", "--raw", &format!("oci:{entry}:localhost/unit:cache")]));
    run_ok(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&entry));
    assert_eq!(podman.said(&["verify", &entry, "--full"]).code, 0);

    // The entry is lost, the image is not; another image of the name does not have this key.
    fs::remove_dir_all(podman.env.path("project/cache")).unwrap();
    assert_eq!(row(&podman, &["save"])["action"], "save");
    change(&podman, "three");
    let said = cache(&podman, &["save"]);
    assert!(said.code == 1 && said.stderr.contains("was built from something else"), "{said:?}");
    podman.run(&["tag", "localhost/base:1", "localhost/unit:cache"]);
    let said = cache(&podman, &["save"]);
    assert!(said.stderr.contains("does not say what it was built from") && said.stderr.contains("--yes"), "{said:?}");
}

#[test]
fn a_clone_works_without_network_base_images_and_nix_and_branches_merge() {
    let podman = project();
    let here = podman.env.path("project");
    // An image in the place of another context.
    let text = fs::read_to_string(here.join("windlass-cache.json")).unwrap();
    let mut definitions: Value = serde_json::from_str(&text).unwrap();
    definitions["images"]["unit"]["contexts"]["tools"] = "container-image://localhost/base:1".into();
    fs::write(here.join("windlass-cache.json"), definitions.to_string()).unwrap();
    let steps = fs::read_to_string(here.join("Containerfile")).unwrap();
    let steps = steps.replace("COPY . ", "COPY --from=tools /bin/busybox /bin/again\nCOPY . ");
    fs::write(here.join("Containerfile"), steps).unwrap();
    // Where there is no cache, nothing is made to say so.
    assert!(cache(&podman, &["prune"]).last().starts_with("would remove 0 entries") && !here.join("cache").exists());
    row(&podman, &["update"]);
    git(&here, &["init", "--quiet"]);
    git(&here, &["add", "."]);
    git(&here, &["commit", "--quiet", "-m", "first"]);
    // Two branches that each add an entry.
    for (branch, file) in [("left", "b"), ("right", "c")] {
        git(&here, &["checkout", "--quiet", "-b", branch, "main"]);
        podman.env.write(Path::new("project").join(file), branch);
        row(&podman, &["update"]);
        git(&here, &["add", "."]);
        git(&here, &["commit", "--quiet", "-m", branch]);
    }
    git(&here, &["merge", "--quiet", "--no-edit", "left"]);
    assert_eq!(entries(&here).len(), 3);
    assert_eq!(row(&podman, &["status"])["hit"], false);
    git(&here, &["checkout", "--quiet", "right"]);
    git(&here, &["reset", "--quiet", "--hard", "HEAD^"]);

    // Another machine: a Podman with nothing in it, no network and no Nix.
    let other = Podman::new();
    git(&other.env.path(""), &["clone", "--quiet", "--branch", "left", here.to_str().unwrap(), "project"]);
    let bin = other.env.path("bin");
    fs::create_dir(&bin).unwrap();
    for entry in ["/usr/sbin", "/usr/bin"].iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(Result::unwrap)) {
        if !entry.file_name().to_str().unwrap().starts_with("nix") {
            drop(symlink(entry.path(), bin.join(entry.file_name())));
        }
    }
    let alone = |words: &[&str]| {
        let own = other.windlass(&[]);
        let mut command = Command::new("unshare");
        command.args(["--net", env!("CARGO_BIN_EXE_windlass"), "cache"]).args(words).args(["--project", "project"]);
        command.env_clear().current_dir(other.env.path(""));
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let nowhere = other.env.path("no-nix");
        command.env("PATH", &bin).env("NIX_STORE_DIR", nowhere.join("store")).env("NIX_STATE_DIR", nowhere.join("var"));
        Said::of(&command.output().unwrap())
    };
    let said = alone(&["load"]);
    assert_eq!(said.last(), "1 image: 1 hit, 0 missed, 1 loaded", "{said:?}");
    assert_eq!(printed(&other), "one");
    assert_eq!(alone(&["update"]).last(), "1 image: 1 hit, 0 missed");
    // What has to be built needs its base image, which is named with the command that brings it.
    other.env.write("project/src/a.txt", "other");
    let said = alone(&["update"]);
    assert!(
        said.code == 6 && said.stderr.contains("base images are not in Podman: base:1, localhost/base:1"),
        "{said:?}"
    );
    assert!(said.stderr.contains("hint: `podman pull base:1` brings it"), "{said:?}");

    // Another user, to whom the clone belongs, and root, who leaves nothing there.
    let clone = other.env.path("project");
    run_ok(Command::new("chown").args(["-R", "12345:12345"]).arg(&clone));
    let mut verify = Command::new("setpriv");
    verify.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(other.env.program());
    verify.args(["cache", "verify", "--full", "--project"]).arg(&clone).env("HOME", "/nonexistent").current_dir("/");
    assert!(run_ok(&mut verify).contains("2 entries, every byte was read: 0 damaged"));
    other.run(&["tag", "localhost/unit:cache", "localhost/base:1"]);
    let before = other.env.tree();
    let said = alone(&["update"]);
    assert!(said.code == 7 && said.stderr.contains("project belongs to user 12345"), "{said:?}");
    let ours = |paths: Vec<PathBuf>| paths.into_iter().filter(|path| path.starts_with(&clone)).collect::<Vec<_>>();
    assert_eq!(ours(before), ours(other.env.tree()));
}

#[test]
fn another_user_loads_what_was_committed() {
    let podman = project_in(Podman::linked());
    let digest = row(&podman, &["update"])["digest"].as_str().unwrap().to_owned();
    let script = "
        cp -r $T/project $T/home/clone; chown -R 12345:12345 $T/home/clone; cd $T/home/clone
        as $WINDLASS cache status; as $WINDLASS cache load; as $WINDLASS cache update
        as podman image inspect --format '{{.Digest}}' localhost/unit:cache
        find $T/home/clone $T/home/.cache -not -user 12345; cd /";
    let said = as_user(&podman, script);
    let lines: Vec<&str> = said.lines().map(untimed).collect();
    let sentence = |line: &&&str| line.starts_with("1 image:");
    assert_eq!(
        lines.iter().filter(sentence).collect::<Vec<_>>(),
        [&"1 image: 1 hit, 0 missed", &"1 image: 1 hit, 0 missed, 1 loaded", &"1 image: 1 hit, 0 missed"],
        "{said}"
    );
    assert_eq!(lines.last(), Some(&digest.as_str()), "{said}");
}

#[test]
fn a_damaged_entry_is_named_and_built_again() {
    let podman = project();
    let first = row(&podman, &["update"]);
    let entry = first["entry"].as_str().unwrap();
    let layer = top_layer(entry);
    for damage in ["flipped", "cut", "gone", "pointer"] {
        let bytes = fs::read(&layer).unwrap();
        match damage {
            "flipped" => fs::write(&layer, bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap(),
            "cut" => fs::write(&layer, &bytes[..100]).unwrap(),
            "gone" => fs::remove_file(&layer).unwrap(),
            _ => fs::write(&layer, "version https://git-lfs.github.com/spec/v1\noid sha256:x\nsize 1\n").unwrap(),
        }
        let said = cache(&podman, &["verify", "--full"]);
        assert!(said.code == 4 && said.stdout.contains(entry), "{damage}: {said:?}");
        assert_eq!(said.stdout.contains("git lfs pull"), damage == "pointer", "{said:?}");
        // What is loaded needs no entry.
        assert_eq!(row(&podman, &["update"])["action"], "nothing", "{damage}");
        podman.run(&["rmi", "localhost/unit:cache"]);
        let said = cache(&podman, &["load"]);
        assert!(said.code == 4 && said.stderr.contains("hint: `windlass cache update unit`"), "{damage}: {said:?}");
        let again = row(&podman, &["update"]);
        assert_eq!((&again["action"], again["problems"].as_array().unwrap().len()), (&"build".into(), 1), "{again}");
        assert_eq!((printed(&podman).as_str(), cache(&podman, &["verify", "--full"]).code), ("one", 0), "{damage}");
    }
    // Without what its key is made of, no one knows what it is.
    fs::write(Path::new(entry).join("inputs.json"), "{}").unwrap();
    assert!(cache(&podman, &["verify"]).stdout.contains("inputs.json"));
    fs::write(Path::new(entry).join("entry.json"), "{").unwrap();
    let said = row(&podman, &["status"]);
    assert_eq!((&said["hit"], said["problems"].as_array().unwrap().len()), (&false.into(), 1), "{said}");
    assert_eq!(row(&podman, &["update"])["action"], "build");
    assert_eq!(cache(&podman, &["verify", "--full"]).last(), "1 entry, every byte was read: 0 damaged");
}

#[test]
fn what_must_not_be_kept_is_refused_before_anything_is_built() {
    let podman = project();
    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        let said = cache(&podman, words);
        assert_eq!(said.code, code, "{said:?}");
        assert!(parts.iter().all(|part| said.stderr.contains(part)), "{parts:?}: {said:?}");
        assert!(!podman.env.path("project/cache").exists());
        said.stderr
    };
    let secret = "hunter2-and-more";
    let argument = format!("--build-arg=API_TOKEN={secret}");
    let said = refused(
        &["init", "unit", &argument],
        2,
        &["API_TOKEN looks like a secret", "--mount=type=secret,id=API_TOKEN"],
    );
    assert!(!said.contains(secret));
    let definitions = podman.env.path("project/windlass-cache.json");
    let text = fs::read_to_string(&definitions).unwrap();
    assert!(!text.contains("API_TOKEN"));
    // By hand.
    let mut by_hand: Value = serde_json::from_str(&text).unwrap();
    by_hand["images"]["unit"]["arguments"]["API_TOKEN"] = secret.into();
    fs::write(&definitions, by_hand.to_string()).unwrap();
    assert!(!refused(&["update"], 2, &["API_TOKEN"]).contains(secret));
    for (key, value, part) in [
        ("context", "..".into(), "must be below this file"),
        ("image", "localhost/unit:latest".into(), "is a floating tag"),
        ("contexts", serde_json::json!({ "a": "https://example.org/a.git" }), "would be fetched at every build"),
        ("secrets", serde_json::json!({ "a": "hunter2" }), "expected env=VARIABLE or src=FILE"),
        ("nothing", 1.into(), "unknown field"),
    ] {
        let mut by_hand: Value = serde_json::from_str(&text).unwrap();
        by_hand["images"]["unit"][key] = value;
        fs::write(&definitions, by_hand.to_string()).unwrap();
        let said = cache(&podman, &["status"]);
        assert!(said.code != 0 && said.stderr.contains(part), "{key}: {said:?}");
    }
    fs::write(&definitions, &text).unwrap();

    podman.env.write("project/tiny.gguf", vec![0; 3_000_000]);
    refused(&["update"], 2, &["unit: the context has weights of models, 3.0 MB: tiny.gguf", "--yes"]);
    fs::remove_file(podman.env.path("project/tiny.gguf")).unwrap();
    podman.env.write("project/Containerfile", "FROM nosuch:1\n");
    refused(&["build"], 6, &["a base image is not in Podman: nosuch:1", "podman pull nosuch:1"]);
    podman.env.write("project/Containerfile", "FROM nosuch:1@sha256:zz\n");
    refused(&["build"], 6, &["nosuch:1"]);
    podman.env.write("project/Containerfile", "RUN x\n");
    refused(&["status"], 2, &["Containerfile: it has no FROM"]);
    podman.env.write("project/Containerfile", "FROM base:1\nRUN [\"/bin/busybox\", \"false\"]\n");
    refused(&["build"], 1, &["unit: podman build ended with 1"]);

    // Weights that only the image has, and a secret that does not get into the image.
    let make = "FROM base:1\nRUN --mount=type=secret,id=token [\"/bin/busybox\", \"sh\", \"-c\", \"cat /run/secrets/token | busybox wc -c >/length; head -c 5000000 /dev/zero >/made.safetensors\"]\n";
    podman.env.write("project/Containerfile", make);
    podman.env.write("secret-value", secret);
    let init = format!("--secret=id=token,src={}", podman.env.path("secret-value").display());
    assert_eq!(cache(&podman, &["init", "unit", &init]).code, 0);
    let said = cache(&podman, &["update"]);
    assert!(
        said.code == 2 && said.stderr.contains("the image has weights of models, 5.0 MB: made.safetensors"),
        "{said:?}"
    );
    let kept = row(&podman, &["update", "--yes"]);
    assert_eq!(
        podman.run(&["run", "--rm", "--network=none", "localhost/unit:cache", "/bin/busybox", "cat", "/length"]).trim(),
        "16"
    );
    let mut grep = Command::new("grep");
    assert_eq!(
        grep.args(["--recursive", "--quiet", secret]).arg(podman.env.path("project/cache")).status().unwrap().code(),
        Some(1)
    );
    assert!(kept["entry"].is_string());
}

#[test]
fn a_build_may_be_killed_at_any_moment_and_old_entries_go() {
    let podman = project();
    let whole = |text: &str| {
        change(&podman, text);
        let row = row(&podman, &["update"]);
        podman.run(&["image", "exists", "localhost/unit:cache"]);
        assert_eq!(cache(&podman, &["verify", "--full"]).code, 0, "{row}");
        printed(&podman)
    };
    assert_eq!(whole("start"), "start");
    let (mut kills, mut ended, mut longest) = (0, 0, Duration::from_millis(1200));
    while kills < 20 {
        change(&podman, &format!("kill {kills}"));
        let verb = if kills % 2 == 0 { "build" } else { "save" };
        let mut command = podman.windlass(&["cache", verb, "--project", "project", "--quiet", "--yes"]);
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest * (kills * 7 % 20 * 2 + 1) / 40);
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true if ended < 40 => (ended, longest) = (ended + 1, longest * 4 / 5),
            _ => kills += 1,
        }
        podman.wait_for_podman();
        // Whatever it left, what is an entry is whole.
        assert_eq!(cache(&podman, &["verify"]).code, 0);
    }
    assert_eq!(whole("end"), "end");
    let here = podman.env.path("project");
    let before = entries(&here).len();
    let said = cache(&podman, &["prune", "--keep", "1"]);
    assert!(said.last().ends_with("1 entry left; nothing was changed, --apply does it"), "{said:?}");
    assert_eq!(entries(&here).len(), before);
    cache(&podman, &["prune", "--keep", "1", "--apply"]).last();
    assert_eq!(entries(&here).len(), 1);
    assert_eq!(cache(&podman, &["verify", "--full"]).last(), "1 entry, every byte was read: 0 damaged");
    // Nothing is left of the killed ones but what the entry needs.
    let needed = fs::read_to_string(entries(&here).first().unwrap().join("SHA256SUMS")).unwrap();
    let blobs = fs::read_dir(here.join("cache/blobs/sha256")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(blobs.into_iter().all(|name| needed.contains(name.to_str().unwrap())));
    let mut names: Vec<_> = fs::read_dir(here.join("cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".gitattributes", "blobs", "unit"]);
    podman.run(&["rmi", "localhost/unit:cache"]);
    assert_eq!((row(&podman, &["load"])["action"].as_str(), printed(&podman).as_str()), (Some("load"), "end"));
    assert_eq!(cache(&podman, &["prune", "--apply"]).last(), "removed 0 entries and 0 blobs of 0 B; 1 entry left");
}

#[test]
fn definitions_come_from_options_and_from_a_devcontainer() {
    let podman = project();
    let file = r#"{ // the editor's
        "name": "x", /* more */ "build": { "dockerfile": "../Containerfile", "context": "..", "target": "last",
        "args": { "A": "1, // 2", }, }, }"#;
    podman.env.write("project/.devcontainer/devcontainer.json", file);
    let devcontainer = podman.env.path("project/.devcontainer/devcontainer.json");
    let said = cache(&podman, &["init", "dev", "--devcontainer", devcontainer.to_str().unwrap(), "--tag", "dev:1"]);
    assert!(said.last().ends_with("has now dev: Containerfile over . as localhost/dev:1"), "{said:?}");
    let text = fs::read(podman.env.path("project/windlass-cache.json")).unwrap();
    let definitions: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(definitions["images"]["dev"]["arguments"], serde_json::json!({ "A": "1, // 2" }));
    assert_eq!(definitions["images"]["dev"]["target"], "last");
    for (text, part) in [
        (r#"{ "image": "a" }"#, "it takes the image a as it is"),
        (r#"{ "build": { "dockerfile": "x", "options": ["--privileged"] } }"#, "build.options has --privileged"),
        (r#"{ "build": { "dockerfile": "x", "args": { "A": "${localEnv:A}" } } }"#, "build.args.A takes a variable"),
        (r#"{ "build": { "dockerfile": "../../x" } }"#, "is not below"),
    ] {
        fs::write(&devcontainer, text).unwrap();
        let said = cache(&podman, &["init", "bad", "--devcontainer", devcontainer.to_str().unwrap()]);
        assert!(said.code == 2 && said.stderr.contains(part), "{said:?}");
    }
    let said = cache(&podman, &["status", "nosuch"]);
    assert!(said.code == 2 && said.stderr.contains("there is no image 'nosuch'; there are: dev, unit"), "{said:?}");
    // A file of another user, which root does not touch.
    chown(podman.env.path("project"), Some(12345), None).unwrap();
    fs::set_permissions(podman.env.path("project"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(cache(&podman, &["init", "more", "--context", podman.env.path("project").to_str().unwrap()]).code, 7);
}
