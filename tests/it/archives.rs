//! `windlass verify` of a stack of archives, and what mends what it finds of what is loaded.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::env::{LinkedPodman, base_name, linked_podman, run_ok};
use crate::lab::Lab;

/// A file with one byte in the middle changed.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Writes `SHA256SUMS` anew, as a user would who did not look.
fn sum(folder: &Path) {
    let script = "find . -type f ! -name SHA256SUMS -printf '%P\\n' | sort | xargs sha256sum >SHA256SUMS";
    run_ok(Command::new("sh").args(["-c", script]).current_dir(folder));
}

fn archives(podman: &LinkedPodman) {
    podman.stack();
    podman.ok("windlass", &["export", "stack", "--output", "good"]);
}

#[test]
fn damaged_archives_are_told_by_image_and_file() {
    let podman = linked_podman();
    archives(&podman);
    let good = podman.env.path("good");
    type Damage = fn(&Path);
    let cases: [(Damage, &[&str]); 10] = [
        (
            |folder| flip(&folder.join("images/app.tar")),
            &["localhost/app:", ": layer ", "bad/images/app.tar has other bytes in it\n"],
        ),
        (
            |folder| flip(&folder.join("models/tiny.tar")),
            &["localhost/tiny:", "layer tiny (", "bad/models/tiny.tar has other"],
        ),
        (
            |folder| {
                let path = folder.join("models/tiny.tar");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["localhost/tiny:", "bad/models/tiny.tar cannot be read: it ends in the middle of "],
        ),
        (
            |folder| fs::write(folder.join("models/tiny.tar"), "").unwrap(),
            &["localhost/tiny:", "bad/models/tiny.tar is empty\n"],
        ),
        (
            |folder| fs::remove_file(folder.join("models/tiny.tar")).unwrap(),
            &["localhost/tiny:", "bad/models/tiny.tar is not there\n"],
        ),
        (
            |folder| {
                let (one, two) = (folder.join("images/app.tar"), folder.join("models/tiny.tar"));
                fs::rename(&one, folder.join("x")).unwrap();
                fs::rename(&two, one).unwrap();
                fs::rename(folder.join("x"), two).unwrap();
                sum(folder);
            },
            &["bad/images/app.tar holds another image: sha256:", "bad/models/tiny.tar holds another image: sha256:"],
        ),
        (
            |folder| {
                let path = folder.join("stack.json");
                let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                json["images"][0]["digest"] = format!("sha256:{}", "0".repeat(64)).into();
                fs::write(path, json.to_string()).unwrap();
            },
            &["the stack: ", "bad/stack.json does not have the sum", "bad/images/app.tar holds another image: sha256:"],
        ),
        (
            |folder| fs::write(folder.join("stack.json"), "{").unwrap(),
            &["the stack: ", "bad/stack.json cannot be read: "],
        ),
        (
            |folder| fs::write(folder.join("load.sh"), "exit 0").unwrap(),
            &["the stack: ", "bad/load.sh does not have the sum"],
        ),
        (
            |folder| fs::remove_file(folder.join("SHA256SUMS")).unwrap(),
            &["the stack: ", "bad/SHA256SUMS is not there\n"],
        ),
    ];
    let bad = podman.env.path("bad");
    for with_lean in [false, true] {
        let copy = || {
            drop(fs::remove_dir_all(&bad));
            run_ok(Command::new("cp").arg("--recursive").arg(&good).arg(&bad));
            if with_lean {
                std::os::unix::fs::symlink(podman.env.path("stack"), bad.join("lean")).unwrap();
            }
        };
        copy();
        let whole = podman.ok("windlass", &["verify", "bad"]);
        assert!(whole.contains("2 images, 4 layers: all good; read 3."), "{whole}");
        for (n, (damage, parts)) in cases.iter().enumerate() {
            copy();
            damage(&bad);
            let (code, said) = podman.run("windlass", &["verify", "bad"]);
            assert_eq!(code, 4, "{n}: {said}");
            for part in *parts {
                assert!(said.contains(part), "{n}: {part}: {said}");
            }
            assert!(said.contains("hint: copy or build the archives again"), "{said}");
        }
    }
    copy_json(&podman, &good);
}

/// The same in parts, for programs.
fn copy_json(podman: &LinkedPodman, good: &Path) {
    flip(&good.join("models/tiny.tar"));
    let output = podman.command("windlass", &["verify", "good", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let detail = &report["details"][0];
    assert_eq!(detail["layer"]["title"], "tiny", "{report}");
    assert_eq!(detail["path"], "good/models/tiny.tar");
    assert!(detail["images"][0].as_str().unwrap().starts_with("localhost/tiny:"));
}

/// Puts other bytes in the place of a linked file, and leaves the store as it is.
fn replace(lab: &Lab, name: &str) {
    let found = run_ok(Command::new("find").arg(lab.storage()).args(["-type", "f", "-name", name]));
    let path = Path::new(found.trim());
    let mut bytes = fs::read(path).unwrap();
    bytes[7] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    run_ok(Command::new("chmod").arg("0444").arg(path));
    run_ok(Command::new("touch").args(["--date", "@1"]).arg(path));
}

/// The command that a run advises last.
fn advised(said: &str) -> Vec<&str> {
    let hint = said.split_once("\nhint: ").unwrap_or_else(|| panic!("{said}")).1;
    hint.split('`').skip(1).step_by(2).collect()
}

#[test]
fn what_cannot_be_mended_keeps_nothing_else_from_being_mended() {
    let lab = Lab::new(true);
    let (one, two) = (lab.build("one", 1, 5000), lab.build("two", 2, 6000));
    lab.ok(&["load", &one, &two]);
    let source = lab.env.path("store").join(base_name("one-1"));
    let whole = fs::read(&source).unwrap();
    // The very file of the store, which the linked layer is too.
    run_ok(Command::new("sh").args(["-c", "chmod u+w \"$0\"; printf X | dd of=\"$0\" bs=1 seek=9 conv=notrunc; chmod 0444 \"$0\"; touch --date @1 \"$0\""]).arg(&source));
    replace(&lab, &base_name("two-2"));
    let verify = || {
        let output = lab.windlass(&["verify", "--full"]).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, bad) = verify();
    assert!(code == 4 && bad.contains("localhost/one:") && bad.contains("localhost/two:"), "{bad}");
    let (restore, repair) = (format!("nix-store --repair-path {}", source.display()), "windlass repair --full");
    assert_eq!(advised(&bad), [restore.as_str(), repair], "{bad}");

    let output = lab.windlass(&["repair", "--full"]).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("\nmended localhost/two:") && !said.contains("mended localhost/one:"), "{said}");
    assert!(said.contains(&restore) && !said.contains("nothing was touched"), "{said}");
    let (code, left) = verify();
    assert!(code == 4 && left.contains("localhost/one:") && !left.contains("localhost/two:"), "{left}");

    // What is advised mends it: first the store, as Nix would, then the rest.
    fs::remove_file(&source).unwrap();
    fs::write(&source, whole).unwrap();
    run_ok(Command::new("chmod").arg("0444").arg(&source));
    run_ok(Command::new("touch").args(["--date", "@1"]).arg(&source));
    lab.ok(&advised(&left)[1].split(' ').skip(1).collect::<Vec<_>>());
    assert_eq!(verify().0, 0);

    // Bytes that only a full look finds are mended by a full repair, and that is what is advised.
    replace(&lab, &base_name("two-2"));
    let (code, bad) = verify();
    assert_eq!((code, advised(&bad)), (4, vec!["windlass repair --full"]), "{bad}");
    lab.ok(&advised(&bad)[0].split(' ').skip(1).collect::<Vec<_>>());
    assert_eq!(verify().0, 0);
}
