//! What the key of a cached image covers: the files that buildah copies, and everything else that decides what is built.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use windlass::internals::cache::ignore::IgnoreRules;

use crate::engine::Podman;

/// A project with a Containerfile over a base image of busybox.
pub(crate) fn project() -> Podman {
    project_in(Podman::new())
}

/// The same in this Podman.
pub(crate) fn project_in(podman: Podman) -> Podman {
    let env = &podman.env;
    fs::create_dir_all(env.path("base")).unwrap();
    fs::copy("/usr/bin/busybox", env.path("base/busybox")).unwrap();
    env.write("base/Containerfile", "FROM scratch\nCOPY busybox /bin/busybox\n");
    podman.run(&["build", "--quiet", "--tag", "localhost/base:1", env.path("base").to_str().unwrap()]);
    env.write("project/src/a.txt", "one");
    env.write("project/.containerignore", "*.log\n");
    let steps = "FROM base:1\nCOPY . /src/\nCMD [\"/bin/busybox\", \"cat\", \"/src/src/a.txt\"]\n";
    env.write("project/Containerfile", steps);
    // As committed some time ago.
    age(&env.path("project"));
    podman.said(&["cache", "init", "unit", "--project", "project"]).last();
    podman
}

/// Gives everything below a folder times long ago, but for the change time, for which one has to wait.
fn age(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => age(&entry.path()),
            kind if kind.is_file() => {
                let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
                fs::File::options().write(true).open(entry.path()).unwrap().set_modified(past).unwrap();
            }
            _ => {}
        }
    }
}

/// The row of the only image, as a verb of the cache gives it.
pub(crate) fn row(podman: &Podman, words: &[&str]) -> Value {
    let said = podman.said(&[&["cache"], words, &["--project", "project", "--quiet", "--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    report["images"][0].clone()
}

/// `added file x`, for each change.
fn changes(podman: &Podman) -> Vec<String> {
    let row = row(podman, &["status"]);
    let text = |change: &Value| ["how", "what", "name"].map(|key| change[key].as_str().unwrap_or_default()).join(" ");
    row["changes"].as_array().unwrap().iter().map(|change| text(change).trim().to_owned()).collect()
}

const FILES: [&str; 19] = [
    "a.txt",
    "b.md",
    "dir/a.txt",
    "dir/b.md",
    "dir/sub/a.txt",
    "dir/sub/b.md",
    "dir/sub/deep/c.txt",
    "other/a.txt",
    ".hidden",
    "sp ace.txt",
    "node_modules/x/y.js",
    "src/node_modules/z.js",
    "x+y.txt",
    "q1.txt",
    "q[1].txt",
    "$cash.txt",
    "#hash",
    "!bang",
    "dot./f",
];

fn files(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), &format!("{name}/"), found),
            false => drop(found.insert(name)),
        }
    }
}

/// What buildah copies with `COPY . /`, or what it says.
fn copied(podman: &Podman, options: &[&str]) -> Result<BTreeSet<String>, String> {
    let (context, out) = (podman.env.path("context"), podman.env.path("out"));
    drop(fs::remove_dir_all(&out));
    let mut build = podman.command("podman");
    build.args(["build", "--quiet", "--output"]).arg(&out).args(options).arg(&context);
    let output = build.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    let mut found = BTreeSet::new();
    files(&out, "", &mut found);
    Ok(found)
}

#[test]
fn the_rules_leave_in_what_buildah_copies() {
    let podman = Podman::new();
    for file in FILES {
        podman.env.write(Path::new("context").join(file), file);
    }
    symlink("/etc", podman.env.path("context/out")).unwrap();
    symlink("dir", podman.env.path("context/dirlink")).unwrap();
    podman.env.write("context/Containerfile", "FROM scratch\nCOPY . /\n");
    podman.env.write("context/.containerignore", "");
    let mut all = BTreeSet::new();
    files(&podman.env.path("context"), "", &mut all);
    for text in [
        "",
        "*.txt\n!a.txt\n",
        "**/*.txt\n/dir/sub/\n./b.md\nother/../.hidden\n",
        "dir\n!dir/sub\ndot.\n",
        "*\n!dir/sub/a.txt\n!/src/\n",
        "dir/*\n!dir/sub/deep\n**/node_modules\n",
        "**\n!a.txt\n",
        "# c\n\n  b.md  \n\t.hidden\n \\#hash\n\\!bang\nx+y.txt\nq[1].txt\n$cash.txt\nsp ace.txt\n",
        "!a.txt\n*.txt\nd?r/?.md\n",
        "**/sub/**\n*/*.txt\r\nout\r\ndirlink/a.txt\n",
        "**/deep\n!dir/sub/deep/c.txt\ndi*\n!dir\n",
        "**/.hid*\n[ab].*\ndir\\sub\n !dir\n*/sub\n**/**/c.txt\n",
        "*\n!dir\ndir/sub\n!dir/sub/deep/\n",
    ] {
        podman.env.write("context/.containerignore", text);
        let theirs = copied(&podman, &[]).unwrap();
        let rules = IgnoreRules::parse(text).unwrap();
        let ours: BTreeSet<String> = all.iter().filter(|path| rules.shows(path)).cloned().collect();
        assert_eq!(ours, theirs, "{text:?}");
    }
    // COPY . does not enter these folders, and a COPY of the file itself takes it.
    let text = "*\n!**/*.md\n";
    podman.env.write("context/.containerignore", text);
    let rest = copied(&podman, &[]).unwrap();
    assert!(!rest.contains("dir/b.md") && IgnoreRules::parse(text).unwrap().shows("dir/b.md"));
    podman.env.write("context/Containerfile", "FROM scratch\nCOPY dir/b.md /x\n");
    assert_eq!(copied(&podman, &[]).unwrap(), ["x".to_owned()].into());
    for text in ["[a\n", "!\n"] {
        podman.env.write("context/.containerignore", text);
        let said = copied(&podman, &[]).unwrap_err();
        assert!(said.contains("pattern") && IgnoreRules::parse(text).is_err(), "{said}");
    }
}

#[test]
fn the_file_of_rules_is_the_one_that_buildah_takes() {
    let podman = Podman::new();
    let names = [".dockerignore", ".containerignore", "File.containerignore", "File.dockerignore"];
    for (n, name) in names.iter().enumerate() {
        podman.env.write(format!("context/{n}"), "");
        podman.env.write(format!("context/{name}"), format!("{n}\n"));
        podman.env.write("context/File", "FROM scratch\nCOPY . /\n");
        let theirs = copied(&podman, &["--file", podman.env.path("context/File").to_str().unwrap()]).unwrap();
        let gone: Vec<usize> = (0..=n).filter(|n| !theirs.contains(&n.to_string())).collect();
        assert_eq!(gone, [n], "each of them goes before the others");
        let init =
            ["cache", "init", "unit", "--containerfile", "context/File", "--context", "context", "--project", "."];
        podman.said(&init).last();
        let said = podman.said(&["cache", "status", "--json"]);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(report["images"][0]["files"], theirs.len(), "{name}: {said:?}");
    }
}

#[test]
fn everything_that_decides_what_is_built_is_named_when_it_changes() {
    let podman = project();
    let env = &podman.env;
    let outside = env.write("outside/secret", "of another tree");
    symlink(env.path("outside"), env.path("project/outside")).unwrap();
    symlink(&outside, env.path("project/link")).unwrap();
    let first = row(&podman, &["update"]);
    assert_eq!((&first["hit"], &first["action"]), (&Value::from(false), &Value::from("build")));
    let inputs: Value =
        serde_json::from_slice(&fs::read(format!("{}/inputs.json", first["entry"].as_str().unwrap())).unwrap())
            .unwrap();
    let paths: Vec<&String> = inputs["context"].as_object().unwrap().keys().collect();
    assert_eq!(paths, [".containerignore", "Containerfile", "link", "outside", "src/a.txt"]);
    assert_eq!(inputs["context"]["link"]["link"], outside.to_str().unwrap());

    let is = |expected: &[&str]| assert_eq!(changes(&podman), expected);
    is(&[]);
    // None of these is a part of the image's content.
    fs::write(&outside, "changed").unwrap();
    env.write("project/x.log", "ignored");
    env.write("project/.git/HEAD", "main");
    env.write("project/cache/unit/other", "not ours");
    fs::create_dir(env.path("project/empty")).unwrap();
    let file = env.path("project/src/a.txt");
    fs::File::options().write(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    is(&[]);

    fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    is(&["changed file src/a.txt"]);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    env.write("project/.containerignore", "*.log\n# more\n");
    env.write("project/b", "");
    fs::remove_file(env.path("project/link")).unwrap();
    symlink("elsewhere", env.path("project/outside2")).unwrap();
    is(&["changed file .containerignore", "added file b", "removed file link", "added file outside2"]);
    for name in ["b", "outside2"] {
        fs::remove_file(env.path("project").join(name)).unwrap();
    }
    env.write("project/.containerignore", "*.log\n");
    symlink(&outside, env.path("project/link")).unwrap();
    is(&[]);

    let define = |key: &str, value: Value| {
        let path = env.path("project/windlass-cache.json");
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let before = file["images"]["unit"].clone();
        file["images"]["unit"][key] = value;
        fs::write(&path, file.to_string()).unwrap();
        let found = changes(&podman);
        file["images"]["unit"] = before;
        fs::write(&path, file.to_string()).unwrap();
        found
    };
    for (key, value, expected) in [
        ("arguments", serde_json::json!({ "A": "1" }), "added argument A"),
        ("target", "x".into(), "changed target"),
        ("platform", "linux/riscv64".into(), "changed platform"),
        ("image", "other:1".into(), "changed image"),
        ("timestamp", 1.into(), "changed timestamp"),
        ("secrets", serde_json::json!({ "token": "env=TOKEN" }), "added secret token"),
        ("contexts", serde_json::json!({ "more": "src" }), "added context more"),
    ] {
        assert_eq!(define(key, value), [expected]);
    }
    // The base image, under the same name.
    env.write("base/more", "");
    env.write("base/Containerfile", "FROM scratch\nCOPY busybox more /bin/\n");
    podman.run(&["build", "--quiet", "--tag", "localhost/base:1", env.path("base").to_str().unwrap()]);
    is(&["changed base base:1"]);
    let said = podman.said(&["cache", "status", "--project", "project"]);
    assert!(
        said.stdout.contains("unit: miss  localhost/unit:cache") && said.stdout.contains("changed: base image base:1")
    );
    assert_eq!(said.last(), "1 image: 0 hit, 1 missed");
}

#[test]
fn a_hit_starts_no_process_and_reads_no_file_again_and_no_change_is_missed() {
    let podman = project();
    row(&podman, &["update"]);
    // Times that the file system could give twice are over.
    std::thread::sleep(Duration::from_millis(2100));
    let home = podman.env.path("home");
    let update = ["cache", "update", "--project", "project", "--json"];
    let at_home = |command: &mut Command| {
        let output = command.env("HOME", &home).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["images"][0].clone()
    };
    // One fills the notes.
    let first = at_home(&mut podman.windlass(&update));
    assert_eq!((&first["read"], &first["action"]), (&3.into(), &"nothing".into()));
    let log = podman.env.path("log");
    let second = at_home(&mut podman.traced(&log, &["-e", "trace=execve"], &update));
    assert_eq!((&second["read"], &second["hit"]), (&0.into(), &true.into()));
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("execve(").count(), 1, "{log}");

    // The same size and the same modification time, at once after it was looked at, again and again.
    let file = podman.env.path("project/src/a.txt");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let mut keys = BTreeSet::from([first["key"].as_str().unwrap().to_owned()]);
    for text in ["two", "tre", "for"] {
        fs::write(&file, text).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        let status = ["cache", "status", "--project", "project", "--json"];
        let key = at_home(&mut podman.windlass(&status))["key"].as_str().unwrap().to_owned();
        assert!(keys.insert(key), "{text} was missed");
    }
}
