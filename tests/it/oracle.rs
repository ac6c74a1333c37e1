//! Other people's implementations as oracles: the crates `nix-base32` and `harmonia`, and Nix itself where the
//! machine has it (a machine without Nix skips those tests).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use harmonia_store_core::store_path::{StoreDir as TheirDir, StorePath as TheirPath};
use harmonia_utils_hash::Sha256;
use harmonia_utils_hash::fmt::{Any, CommonHash};
use proptest::prelude::*;
use windlass::internals::nix::nar::nar_hash;
use windlass::internals::nix::store_path::{NarHash, StoreDir, nixbase32};
use windlass::internals::oci::digest::Digest;

/// Mostly store paths, some nearly.
fn candidate() -> impl Strategy<Value = String> {
    let dir = prop_oneof![9 => "/nix/store/", 1 => "/nix/store/?/|/nix/|/|"];
    let hash = prop_oneof![9 => "[0-9a-df-np-sv-z]{32}", 1 => "[0-9a-z]{31,33}"];
    let name = prop_oneof![9 => "[a-zA-Z0-9+._?=-]{1,12}", 1 => "[ -~é]{0,4}", 1 => "a{209,213}"];
    let dash = prop_oneof![9 => "-", 1 => "[-_]?"];
    (dir, hash, dash, name).prop_map(|(d, h, dash, n)| format!("{d}{h}{dash}{n}"))
}

/// Nix's rule since 2.26, which the harmonia of the oracle does not know.
fn dotted(path: &str) -> bool {
    path.get("/nix/store/".len() + 33..)
        .is_some_and(|name| matches!(name, "." | "..") || name.starts_with(".-") || name.starts_with("..-"))
}

/// A hash in one of three encodings, perhaps with one character replaced.
fn hash_text() -> impl Strategy<Value = String> {
    (any::<[u8; 32]>(), 0..3, prop::option::of((any::<prop::sample::Index>(), "[0-9a-z+/=:-]"))).prop_map(
        |(bytes, encoding, damage)| {
            let hash = NarHash::from_bytes(bytes);
            let mut text = match encoding {
                0 => hash.to_string(),
                1 => hash.to_nix32(),
                _ => Digest::from_bytes(bytes).to_string(),
            };
            if let Some((at, with)) = damage {
                let at = at.index(text.len());
                text.replace_range(at..=at, &with);
            }
            text
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn store_paths_agree_with_harmonia(path in candidate()) {
        let ours = StoreDir::default().parse(&path);
        let theirs = TheirDir::default().parse::<TheirPath>(&path);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok() && !dotted(&path), "{}: {:?}", path, ours);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.base_name(), theirs.to_base_path());
            prop_assert_eq!(ours.hash_part(), theirs.hash().to_string());
            prop_assert_eq!(ours.name(), theirs.name().as_ref() as &str);
            prop_assert_eq!(nixbase32::decode(ours.hash_part()), Some(theirs.hash().to_vec()));
            prop_assert_eq!(StoreDir::default().display(&ours), TheirDir::default().display(&theirs).to_string());
        }
    }

    #[test]
    fn hashes_agree_with_harmonia(text in hash_text()) {
        let ours = text.parse::<NarHash>().ok();
        // Theirs also reads `sha256:<base64>`, which no Nix writes.
        let odd = text.starts_with("sha256:") && text.ends_with('=');
        let theirs = text.parse::<Any<Sha256>>().ok().filter(|_| !odd).map(Any::into_hash);
        prop_assert_eq!(ours.map(|hash| hash.as_bytes().to_vec()), theirs.map(|hash| hash.digest_bytes().to_vec()));
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.to_string(), theirs.as_sri().to_string());
            prop_assert_eq!(ours.to_nix32(), theirs.as_base32().to_string());
        }
    }

    #[test]
    fn base32_agrees_with_nix_base32(bytes in prop::collection::vec(any::<u8>(), 1..70), other in "[0-9a-z]{1,60}") {
        let text = nixbase32::encode(&bytes);
        prop_assert_eq!(&text, &nix_base32::to_nix_base32(&bytes));
        prop_assert_eq!(nixbase32::decode(&text), nix_base32::from_nix_base32(&text));
        // Theirs indexes out of bounds for lengths that no bytes have.
        if (other.len() * 5 / 8 * 8).div_ceil(5) == other.len() {
            prop_assert_eq!(nixbase32::decode(&other), nix_base32::from_nix_base32(&other));
        }
    }
}

/// What `nix` prints, in a store of its own; `None` where it is not installed.
fn nix(program: &str, args: &[&std::ffi::OsStr], home: &Path) -> Option<Vec<u8>> {
    let output = Command::new(program)
        .args(args)
        .env("NIX_CONFIG", "experimental-features = nix-command")
        .env("NIX_STORE_DIR", home.join("store"))
        .env("NIX_STATE_DIR", home.join("state"))
        .env("NIX_LOG_DIR", home.join("log"))
        .env("HOME", home)
        .output()
        .inspect_err(|error| assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"))
        .ok()?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn nar_hash_agrees_with_nix() {
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    fs::create_dir_all(tree.join("a/empty-dir")).unwrap();
    // Sorted by bytes, `a-` and `a.` come before what is in `a/`, and 0xff comes last.
    for (name, contents) in
        [(&b"a.file"[..], &b"12345678"[..]), (b"a-", b""), (b"B", b"x"), (b"\xff\xfe", b"not UTF-8")]
    {
        fs::write(tree.join(std::ffi::OsStr::from_bytes(name)), contents).unwrap();
    }
    fs::write(tree.join("a/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("a/run"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::write(tree.join("large"), vec![7; 1_000_001]).unwrap();
    symlink("a/run", tree.join("link")).unwrap();
    symlink("/nowhere", tree.join("a/dangling")).unwrap();

    for path in [tree.clone(), tree.join("a-"), tree.join("a/run"), tree.join("a/dangling"), tree.join("a/empty-dir")] {
        let (hash, size) = nar_hash(&path).unwrap();
        let Some(dump) = nix("nix-store", &["--dump".as_ref(), path.as_os_str()], home.path()) else { return };
        assert_eq!((hash.as_bytes(), size), (Digest::of(&dump).as_bytes(), dump.len() as u64), "{}", path.display());
        let args = ["hash", "path", "--type", "sha256", "--base32"].map(AsRef::as_ref);
        let printed = nix("nix", &[&args[..], &[path.as_os_str()]].concat(), home.path()).unwrap();
        assert_eq!(
            format!("sha256:{}\n", String::from_utf8(printed).unwrap().trim_end()),
            format!("{}\n", hash.to_nix32())
        );
    }
}
