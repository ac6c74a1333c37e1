//! Every bad input of the list: one clear sentence, the right exit code, and nothing left behind.
//!
//! [`Env::refused`] checks that standard output is empty, that standard error is one sentence, and that no file came or
//! went, under the final name or beside it.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use windlass::internals::disk::pipe::{PipeError, Readers};
use windlass::internals::layer::{Recipe, Sink};

use crate::env::{Env, base_name, closure, run_ok};

/// An image spec with these keys beside its name.
fn image(more: Value) -> Value {
    let mut spec =
        json!({ "kind": "image", "name": "app", "tag": "1", "platform": "linux/amd64", "mountPoints": false });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// What `windlass build` says to a spec that it must refuse.
fn refused(env: &Env, spec: &Value) -> (i32, String) {
    env.write("spec.json", spec.to_string());
    env.refused(&mut env.windlass(["build", "spec.json", "--output", "out"]))
}

fn says(code: i32, sentence: &str) -> (i32, String) {
    (code, sentence.to_owned())
}

/// A store in the folder with these store paths, files all, and their closure.
fn store(env: &Env, paths: &[(&str, &[&str])]) -> String {
    for (name, _) in paths {
        env.write(Path::new("store").join(base_name(name)), format!("I am {name}"));
    }
    let store = env.path("store").display().to_string();
    env.write("closure.json", closure(&store, Path::new(&store), paths));
    store
}

const CLOSURE: [&str; 6] = ["build", "spec.json", "--output", "out", "--closure", "closure.json"];

/// A model of one file, built lean.
fn lean_model(env: &Env, size: u64) {
    fs::File::create(env.path("weights")).unwrap().set_len(size).unwrap();
    let files = json!({ "weights": env.path("weights") });
    env.write("spec.json", json!({ "kind": "model", "name": "m", "tag": "1", "files": files }).to_string());
    env.ok(["build", "spec.json", "--output", "lean"]);
}

/// The one layer blob of a full image.
fn layer_blob(image: &Path) -> std::path::PathBuf {
    let json: Value = serde_json::from_slice(&fs::read(image.join("image.json")).unwrap()).unwrap();
    let digest = json["platforms"][0]["layers"][0]["digest"].as_str().unwrap();
    image.join("blobs").join(digest.replace(':', "/"))
}

#[test]
fn specs_that_are_wrong_name_the_key() {
    let env = Env::new();
    for (more, sentence) in [
        (
            json!({ "config": { "Env": "PATH=/bin" } }),
            "config.Env: invalid type: string \"PATH=/bin\", expected a sequence",
        ),
        (json!({ "config": { "Cmd": [1] } }), "config.Cmd[0]: invalid type: integer `1`, expected a string"),
        (json!({ "config": { "Env": ["PATH"] } }), "config.Env: 'PATH' is not NAME=value"),
        (
            json!({ "config": { "ExposedPorts": { "http": {} } } }),
            "config.ExposedPorts: 'http' is not a port like 6379/tcp",
        ),
        (json!({ "config": { "WorkingDir": "data" } }), "config.WorkingDir: 'data' is not an absolute path"),
        (json!({ "config": { "Volumes": { "data": {} } } }), "config.Volumes: 'data' is not an absolute path"),
        (json!({ "created": "now" }), "created: 'now' is not an RFC 3339 time; an image carries no wall-clock time"),
        (json!({ "maxLayers": 128 }), "maxLayers: 128 is not between 1 and 127"),
        (
            json!({ "perms": [{ "mode": "9" }] }),
            "perms[0].mode: '9' is not a mode: expected three or four octal digits like \"0755\"",
        ),
        (json!({ "perms": [{ "regex": "(" }] }), "perms[0].regex: '(' is not a regular expression: unclosed group"),
        (
            json!({ "platform": "x86_64-linux" }),
            "platform: 'x86_64-linux' is not a platform: expected os/architecture[/variant] like linux/amd64 or linux/arm64/v8",
        ),
        (json!({ "models": [{}] }), "models[0]: expected either 'built' or 'spec'"),
        (json!({ "content": { "deps": ["/usr/bin"] } }), "content.deps: '/usr/bin' is not below the store /nix/store"),
        (
            json!({ "content": { "contents": ["/nix/store/../bin"] } }),
            "content.contents: '/nix/store/../bin' contains '..', which may lead out of the store path",
        ),
        (json!({ "content": { "files": { "/a": "b" } } }), "content.files: 'b' is not an absolute path without '..'"),
    ] {
        assert_eq!(refused(&env, &image(more)), says(2, &format!("spec.json: {sentence}")));
    }
    for (more, beginning) in [
        (json!({ "nmae": "x" }), "spec.json: nmae: unknown field `nmae`, expected one of `name`, `tag`,"),
        (
            json!({ "config": { "Command": [] } }),
            "spec.json: config.Command: unknown field `Command`, expected one of `User`,",
        ),
    ] {
        let (code, sentence) = refused(&env, &image(more));
        assert!(code == 2 && sentence.starts_with(beginning), "{code}: {sentence}");
    }
    let nameless = json!({ "kind": "image" });
    assert_eq!(refused(&env, &nameless), says(2, "spec.json: the spec: missing field `name`"));
    let kinds = "spec.json: kind: expected \"image\", \"model\", \"layer\", \"upstream\", \"oci\", \"index\", \"stack\" or \"ollama\"";
    assert_eq!(refused(&env, &json!({ "kind": "pod" })), says(2, kinds));
    env.write("spec.json", "{");
    let (code, sentence) = env.refused(&mut env.windlass(["build", "spec.json", "--output", "out"]));
    assert_eq!((code, sentence.as_str()), (2, "spec.json: not JSON: EOF while parsing an object at line 1 column 1"));
    let missing = env.refused(&mut env.windlass(["build", "none.json", "--output", "out"]));
    assert_eq!(missing, says(2, "none.json: there is no such file or directory"));
}

#[test]
fn names_and_tags() {
    let env = Env::new();
    let name = "expected lower-case letters, digits and single '.', '_' or '-' between them, in parts separated by '/'";
    let tag = "expected 1 to 128 letters, digits, '_', '.' or '-', and neither '.' nor '-' first";
    let floating = "it names whatever was built last; leave the tag out, or give a version";
    for (more, sentence) in [
        (json!({ "name": "Redis" }), format!("'Redis' is not an image name: {name}")),
        (json!({ "name": "a/../b" }), format!("'a/../b' is not an image name: {name}")),
        (json!({ "tag": "a b" }), format!("'a b' is not a tag: {tag}")),
        (json!({ "tag": "" }), format!("'' is not a tag: {tag}")),
        (json!({ "tag": "latest" }), format!("'latest' is a floating tag: {floating}")),
    ] {
        assert_eq!(refused(&env, &image(more)), says(2, &format!("spec.json: {sentence}")));
    }
    let index = json!({ "kind": "index", "name": "a", "tag": "latest", "images": ["x"] });
    assert_eq!(refused(&env, &index), says(2, &format!("spec.json: 'latest' is a floating tag: {floating}")));
}

#[test]
fn closures_that_are_wrong() {
    let env = Env::new();
    let store = store(&env, &[("app", &["lib"]), ("lib", &[])]);
    let app = format!("{store}/{}", base_name("app"));
    let whole: Value = serde_json::from_slice(&fs::read(env.path("closure.json")).unwrap()).unwrap();
    env.write("spec.json", image(json!({ "storeDir": store, "content": { "deps": [app] } })).to_string());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut closure = whole.clone();
        change(&mut closure);
        env.write("closure.json", closure.to_string());
        env.refused(&mut env.windlass(CLOSURE))
    };
    let (app_base, lib_base) = (base_name("app"), base_name("lib"));
    let lib = format!("{store}/{lib_base}");

    let lacks = format!(
        "closure.json: the closure lacks {lib_base}, which {app_base} refers to; 'nix path-info' needs --recursive"
    );
    assert_eq!(with(&|closure| drop(closure.as_object_mut().unwrap().remove(&lib))), says(1, &lacks));
    let cycle = [&app_base, &lib_base].into_iter().min().unwrap();
    let other = [&app_base, &lib_base].into_iter().max().unwrap();
    let cycle = format!("closure.json: references form a cycle: {cycle} -> {other} -> {cycle}");
    assert_eq!(with(&|closure| closure[&lib]["references"] = json!([app])), says(1, &cycle));
    let unknown = format!("closure.json does not have $T/store/{app_base}, which the spec names");
    assert_eq!(with(&|closure| *closure = json!({})), says(2, &unknown));
    let hash = format!("closure.json: {lib_base}, 'narSize': expected a number of bytes, found \"many\"");
    assert_eq!(with(&|closure| closure[&lib]["narSize"] = "many".into()), says(1, &hash));
    // In the closure, but not on the disk.
    fs::remove_file(&lib).unwrap();
    let gone = format!("layer lib: read $T/store/{lib_base}: No such file or directory (os error 2)");
    assert_eq!(with(&|_| ()), says(1, &gone));
    // Neither a closure nor Nix.
    let (code, sentence) = env.refused(env.windlass(["build", "spec.json", "--output", "out"]).env("PATH", ""));
    let nix = format!(
        "the references of $T/store/{app_base} are needed, and `nix` cannot be asked (No such file or directory (os error 2)); install Nix, or give them with --closure FILE"
    );
    assert_eq!((code, sentence), (7, nix));
}

#[test]
fn paths_that_no_layer_can_hold() {
    let env = Env::new();
    let tree = env.path("tree");
    fs::create_dir(&tree).unwrap();
    let spec = image(json!({ "content": { "copyToRoot": [tree] } }));
    let special = |kind: &str| {
        says(
            1,
            &format!(
                "layer files: $T/tree/odd is a {kind}: a layer holds files, directories and symbolic links only; leave it out of the input"
            ),
        )
    };

    let odd = tree.join("odd");
    let socket = UnixListener::bind(&odd).unwrap();
    assert_eq!(refused(&env, &spec), special("socket"));
    drop(socket);
    for (node, kind) in
        [(&["p"][..], "FIFO"), (&["c", "1", "3"], "character device"), (&["b", "7", "250"], "block device")]
    {
        fs::remove_file(&odd).unwrap();
        run_ok(Command::new("mknod").arg(&odd).args(node));
        assert_eq!(refused(&env, &spec), special(kind));
    }
    let model = json!({ "kind": "model", "name": "m", "files": { "m": env.path("none.gguf") } });
    assert_eq!(refused(&env, &model), says(1, "layer m: read $T/none.gguf: No such file or directory (os error 2)"));
    // A file that says it has 4096 bytes, and has fewer.
    let short = json!({ "kind": "model", "name": "m", "files": { "m": "/sys/kernel/uevent_seqnum" } });
    let changed =
        "layer m: /sys/kernel/uevent_seqnum changed while it was read: an input must not be written to during a build";
    assert_eq!(refused(&env, &short), says(1, changed));

    let unreadable = env.write("shared/secret", "x");
    fs::set_permissions(&unreadable, fs::Permissions::from_mode(0o600)).unwrap();
    env.write("spec.json", json!({ "kind": "model", "name": "m", "files": { "m": unreadable } }).to_string());
    fs::set_permissions(env.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(env.program());
    nobody.arg("build").arg(env.path("spec.json")).arg("--output").arg(env.path("shared/out"));
    assert_eq!(env.refused(&mut nobody), says(1, "layer m: read $T/shared/secret: Permission denied (os error 13)"));
}

/// Takes files as any sink does, while they grow.
struct Growing;

impl Sink for Growing {
    fn bytes(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn file(&mut self, file: &fs::File, _: u64, _: bool, _: Readers<'_>) -> Result<(), PipeError> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::File::options()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"more"))
            .map_err(PipeError::Write)
    }
}

#[test]
fn a_file_that_grows_while_it_is_read() {
    let env = Env::new();
    let file = env.write("log", "some");
    let input = json!({ "type": "copy", "source": file, "target": "/log" });
    let recipe: Recipe = serde_json::from_value(json!({ "format": 1, "inputs": [input] })).unwrap();
    let sentence = env.scrub(&recipe.stream(&mut Growing).unwrap_err().to_string());
    assert_eq!(sentence, "$T/log changed while it was read: an input must not be written to during a build");
}

#[test]
fn two_inputs_at_one_path() {
    let env = Env::new();
    env.write("one/etc/conf", "1");
    env.write("two/etc/conf", "2");
    let (one, two) = (env.path("one"), env.path("two"));
    let conflict = "layer files: two inputs give different things at /etc/conf of the image: $T/one/etc/conf and $T/two/etc/conf; leave one out";
    let spec = image(json!({ "content": { "copyToRoot": [one, two] } }));
    assert_eq!(refused(&env, &spec), says(1, conflict));
    let below = "layer files, directories: /etc/conf/d of the image is asked for, but $T/one/etc/conf is put above it and is not a directory";
    let spec = image(json!({ "content": { "copyToRoot": [one], "directories": { "/etc/conf/d": "0755" } } }));
    assert_eq!(refused(&env, &spec), says(1, below));
    let file = image(json!({ "content": { "copyToRoot": [one.join("etc/conf")] } }));
    let root = "layer files: $T/one/etc/conf is put at / of the image, but is not a directory; give the file a name there with `files`";
    assert_eq!(refused(&env, &file), says(1, root));
    let model = |name: &str, file: &Path| json!({ "spec": { "name": name, "files": { "m": file } } });
    let files = [one.join("etc/conf"), two.join("etc/conf")];
    let models = image(json!({ "models": [model("a", &files[0]), model("b", &files[1])] }));
    let collide = "image 'app': models 'a' and 'b' both put something at /models/m; give one of them another mountPath";
    assert_eq!(refused(&env, &models), says(1, collide));
    let models = image(json!({ "models": [model("a", &files[0]), model("a", &files[1])] }));
    let same = "two models of the stack are called 'a', but have different bytes; give one of them another name";
    assert_eq!(refused(&env, &models), says(1, same));
}

#[test]
fn more_layers_than_an_image_can_have() {
    let env = Env::new();
    let models = |count: usize| {
        let model = |n: usize| {
            let file = env.write(format!("models/{n}"), n.to_string());
            json!({ "spec": { "name": format!("m{n}"), "files": { format!("{n}"): file } } })
        };
        image(json!({ "models": (0..count).map(model).collect::<Vec<_>>() }))
    };
    let spec = models(128);
    let many = "image 'app' would have 128 layers (128 of models, 0 others); no image may have more than 127: lower maxLayers or leave models out";
    assert_eq!(refused(&env, &spec), says(1, many));
    env.write("spec.json", models(127).to_string());
    assert!(env.ok(["build", "spec.json", "--output", "out"]).contains("127 layers"));
}

#[test]
fn a_recipe_whose_path_is_gone_or_changed() {
    let env = Env::new();
    let store = store(&env, &[("app", &["lib"]), ("lib", &[])]);
    let (app, lib) = (format!("{store}/{}", base_name("app")), format!("{store}/{}", base_name("lib")));
    env.write("spec.json", image(json!({ "storeDir": store, "content": { "deps": [app] } })).to_string());
    env.ok(["build", "spec.json", "--output", "lean", "--closure", "closure.json"]);
    let layer = layer_blob(&env.path("lean")).file_name().unwrap().to_str().unwrap()[..12].to_owned();
    let export = || env.refused(&mut env.windlass(["export", "lean", "--output", "out.tar"]));
    let verify = |more: &[&str]| {
        let output = env.windlass([&["verify", "lean"], more].concat()).output().unwrap();
        let text = |bytes| env.scrub(&String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let failed = "windlass: 1 layer failed verification\n".to_owned();

    // Another text of the same length: sizes agree, bytes do not.
    fs::write(&lib, "I am lIb").unwrap();
    let mend = "restore it (`nix-store --repair-path` for a store path), or build again";
    let lib_base = base_name("lib");
    let changed =
        format!("layer lib ({layer}) can no longer be made: $T/store/{lib_base} changed since it was built; {mend}");
    assert_eq!(export(), says(4, &changed));
    assert_eq!(verify(&[]), (0, "1 image, 2 layers: all good; read 0 B\n".to_owned(), String::new()));
    let found = (4, format!("localhost/app:1: {changed}\n1 image, 2 layers: 1 problem; read 16 B\n"), failed.clone());
    assert_eq!(verify(&["--full"]), found);

    fs::remove_file(&lib).unwrap();
    let gone = format!("layer lib ({layer}): read $T/store/{lib_base}: No such file or directory (os error 2)");
    assert_eq!(export(), says(1, &gone));
    let (code, stdout, stderr) = verify(&[]);
    assert_eq!((code, stderr), (4, failed));
    assert_eq!(stdout, format!("localhost/app:1: {gone}\n1 image, 2 layers: 1 problem; read 0 B\n"));
}

#[test]
fn damaged_checksums() {
    let env = Env::new();
    lean_model(&env, 1000);
    let file = fs::read_dir(env.path("lean/recipes")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "crc64")).unwrap();
    let name = env.scrub(file.to_str().unwrap()).replace("$T/", "");
    fs::write(&file, [0; 8]).unwrap();
    let output = env.windlass(["verify", "lean", "--full"]).output().unwrap();
    let wrong = format!("{name}: does not have the sums of the layer's files; build or copy the image again");
    let printed = format!("localhost/m:1: {wrong}\n1 image, 1 layer: 1 problem; read 1.0 kB\n");
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(4), printed));

    fs::write(&file, [0; 7]).unwrap();
    let cut = format!("{name}: has 7 bytes, which is not a multiple of 8; build or copy the image again");
    let output = env.windlass(["verify", "lean"]).output().unwrap();
    let printed = format!("localhost/m:1: {cut}\n1 image, 1 layer: 1 problem; read 0 B\n");
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(4), printed));
}

#[test]
fn damaged_blobs() {
    let env = Env::new();
    lean_model(&env, 3 << 20);
    env.ok(["build", "spec.json", "--output", "full", "--full"]);
    let blob = layer_blob(&env.path("full"));
    let digest = blob.file_name().unwrap().to_str().unwrap().to_owned();
    let good = fs::read(&blob).unwrap();
    let export =
        |format: &str| env.refused(&mut env.windlass(["export", "full", "--output", "out", "--format", format]));
    let verify = || {
        let output = env.windlass(["verify", "full", "--full"]).output().unwrap();
        (output.status.code().unwrap(), env.scrub(&String::from_utf8(output.stdout).unwrap()))
    };

    fs::write(&blob, &good[..good.len() - 512]).unwrap();
    let short = format!(
        "full/blobs/sha256/{digest} is damaged: it has {} bytes instead of {}; build or copy the image again",
        good.len() - 512,
        good.len()
    );
    assert_eq!(export("archive"), says(4, &short));
    assert_eq!(export("oci"), says(4, &short));
    assert_eq!(verify(), (4, format!("localhost/m:1: {short}\n1 image, 1 layer: 1 problem; read 0 B\n")));

    let mut flipped = good;
    flipped[2 << 20] ^= 1;
    fs::write(&blob, &flipped).unwrap();
    let found = windlass::internals::oci::digest::Digest::of(&flipped);
    let flip = format!(
        "full/blobs/sha256/{digest} is damaged: its bytes have the digest {found}; build or copy the image again"
    );
    assert_eq!(export("archive"), says(4, &flip));
    assert_eq!(export("oci"), says(4, &flip));
    assert_eq!(verify(), (4, format!("localhost/m:1: {flip}\n1 image, 1 layer: 1 problem; read 3.2 MB\n")));

    // A manifest: nothing in the image can be trusted.
    let image: Value = serde_json::from_slice(&fs::read(env.path("lean/image.json")).unwrap()).unwrap();
    let manifest = format!("lean/blobs/{}", image["digest"].as_str().unwrap().replace(':', "/"));
    fs::write(env.path(&manifest), "{}").unwrap();
    let found = windlass::internals::oci::digest::Digest::of(b"{}");
    let damaged = format!("{manifest} is damaged: its bytes have the digest {found}; build or copy the image again");
    for arguments in [&["inspect", "lean"][..], &["verify", "lean"], &["export", "lean", "--output", "out.tar"]] {
        assert_eq!(env.refused(&mut env.windlass(arguments)), says(4, &damaged), "{arguments:?}");
    }
    // Nor can an image be built on it.
    let (code, sentence) = refused(&env, &self::image(json!({ "models": [{ "built": env.path("lean") }] })));
    assert_eq!((code, sentence), says(4, &format!("$T/{damaged}")));
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let env = Env::new();
    lean_model(&env, 8 << 20);
    let disk = env.mount("disk", "tmpfs", 4 << 20);
    let foreseen = env.refused(&mut env.windlass(["export", "lean", "--output", "disk/out.tar"]));
    assert_eq!(foreseen, says(5, "disk/out.tar needs 8.4 MB and disk has 4.2 MB free; free some, or write elsewhere"));
    // A build does not know beforehand what it will write.
    let (code, sentence) = env.refused(&mut env.windlass(["build", "spec.json", "--output", "disk/out", "--full"]));
    let whole =
        sentence.starts_with("write $T/disk/.out.windlass-") || sentence.starts_with("write disk/.out.windlass-");
    assert!(code == 5 && whole && sentence.ends_with(": No space left on device (os error 28)"), "{code}: {sentence}");
    run_ok(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0));
    for arguments in [
        &["export", "lean", "--output", "disk/out.tar", "--without", "models"][..],
        &["build", "spec.json", "--output", "disk/out"],
    ] {
        let (code, sentence) = env.refused(&mut env.windlass(arguments));
        let sentence = sentence.split_once(".windlass-").map(|(before, after)| {
            (before.to_owned(), after.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned())
        });
        let (before, after) = sentence.unwrap();
        assert_eq!((code, after.as_str()), (1, ": Read-only file system (os error 30)"));
        assert!(["create disk/.out.tar", "create disk/.out"].contains(&before.as_str()), "{before}");
    }
}

#[test]
fn signals_end_an_export_and_leave_nothing_for_long() {
    let env = Env::new();
    lean_model(&env, 1 << 30);
    fs::create_dir(env.path("to")).unwrap();
    let names = || -> Vec<String> {
        fs::read_dir(env.path("to")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    // Ended while the weights are being written.
    let ended_by = |signal: &str| {
        let mut export = env.windlass(["export", "lean", "--output", "to/out.tar"]);
        let mut child = export.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let under_way = || {
            names().iter().any(|name| fs::metadata(env.path("to").join(name)).is_ok_and(|file| file.len() > 1 << 20))
        };
        while !under_way() {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::sleep(Duration::from_millis(2));
        }
        run_ok(Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        let output = child.wait_with_output().unwrap();
        (output.status.signal(), String::from_utf8(output.stderr).unwrap())
    };
    let stopped = "windlass: stopped by a signal; nothing has changed\n".to_owned();
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        assert_eq!(ended_by(name), (Some(number), stopped.clone()));
        assert_eq!(names(), Vec::<String>::new());
    }
    assert_eq!(ended_by("KILL"), (Some(9), String::new()));
    assert!(matches!(&names()[..], [left] if left.starts_with(".out.tar.windlass-")), "{:?}", names());
    // The next run for the same name clears up.
    env.ok(["export", "lean", "--output", "to/out.tar", "--without", "models"]);
    assert_eq!(names(), ["out.tar"]);
}

#[test]
fn an_output_that_is_not_ours() {
    let env = Env::new();
    lean_model(&env, 10);
    env.write("photos/one.jpg", "x");
    env.write("notes.txt", "x");
    let ours = |verb: &str, name: &str| {
        says(2, &format!("{name} exists, and windlass did not {verb} it; give another --output"))
    };
    for name in ["photos", "notes.txt"] {
        assert_eq!(env.refused(&mut env.windlass(["build", "spec.json", "--output", name])), ours("build", name));
    }
    let oci = ["export", "lean", "--format", "oci", "--output"];
    assert_eq!(env.refused(&mut env.windlass([&oci[..], &["photos"]].concat())), ours("write", "photos"));
    assert_eq!(env.refused(&mut env.windlass([&oci[..], &["notes.txt"]].concat())), ours("write", "notes.txt"));
    let directory = says(2, "photos is a directory; give a file");
    assert_eq!(env.refused(&mut env.windlass(["export", "lean", "--output", "photos"])), directory);
    symlink("nowhere", env.path("link")).unwrap();
    assert_eq!(env.refused(&mut env.windlass(["build", "spec.json", "--output", "link"])), ours("build", "link"));
    // What is ours is replaced.
    env.ok(["build", "spec.json", "--output", "lean"]);
}
