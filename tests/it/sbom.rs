//! `windlass sbom`: what is said is what is there, the same bytes everywhere, and the formats' own programs read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{Env, base_name, closure, run_ok};
use crate::foreign::Foreign;
use crate::nix::{build, eval, requisites, root};

/// A part that tests/parts.sh has fetched.
pub(crate) fn part(name: &str) -> PathBuf {
    let path = root().join("target/parts").join(name);
    assert!(path.exists(), "no {}: run tests/parts.sh fetch first", path.display());
    path
}

/// What CycloneDX' and SPDX' own libraries say of documents.
pub(crate) const VALIDATE: &str = r"
import sys
from cyclonedx.validation.json import JsonStrictValidator
from cyclonedx.schema import SchemaVersion
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
validator = JsonStrictValidator(SchemaVersion.V1_6)
for name in sys.argv[1:]:
    if 'spdx' in name:
        for message in validate_full_spdx_document(parse_file(name)): print(name, message.validation_message)
    else:
        error = validator.validate_str(open(name).read())
        if error: print(name, error)
print('checked', len(sys.argv) - 1)
";

/// Vulnerabilities of redis before 8.0.3, and before 7: one that these parts have, and one that they have not.
const PLANT: &str = r"
import os, sqlite3
from cve_bin_tool.cvedb import CVEDB
folder = os.path.expanduser('~/.cache/cve-bin-tool')
os.makedirs(folder)
database = sqlite3.connect(folder + '/cve.db')
for table in CVEDB.TABLE_SCHEMAS.values(): database.execute(table)
for cve, before in [('CVE-2099-0001', '8.0.3'), ('CVE-2099-0002', '7.0.0')]:
    database.execute('insert into cve_severity values (?, ?, ?, 8.1, 3, ?, ?, ?)', (cve, 'HIGH', 'planted', 'CVSS:3.1/AV:N', 'NVD', '2026-01-01'))
    database.execute('insert into cve_range values (?, ?, ?, ?, ?, ?, ?, ?, ?)', (cve, 'redis', 'redis', '*', '', '', '', before, 'NVD'))
database.commit()
";

/// redis with a source and patches as nixpkgs' packages have them; none of these can be built.
const REDIS: &str = r#"redis = pkgs.redis // {
    srcs = null;
    src = derivation { name = "redis-8.0.2.tar.gz"; system = builtins.currentSystem; builder = "/no/such"; outputHash = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="; outputHashMode = "flat"; }
      // { urls = [ "https://download.redis.io/releases/redis-8.0.2.tar.gz" "mirror://redis/redis-8.0.2.tar.gz" ]; };
    patches = [ (derivation { name = "CVE-2024-31449.patch"; system = builtins.currentSystem; builder = "/no/such"; } // { url = "https://example.org/fix.patch"; }) ];
  };"#;

/// Components by their names.
fn components(bom: &Value) -> BTreeMap<&str, &Value> {
    bom["components"].as_array().unwrap().iter().map(|one| (one["name"].as_str().unwrap(), one)).collect()
}

/// The values of a property.
fn properties<'a>(component: &'a Value, name: &str) -> Vec<&'a str> {
    let all = component["properties"].as_array().unwrap().iter();
    let name = format!("windlass:{name}");
    all.filter(|one| one["name"] == *name).map(|one| one["value"].as_str().unwrap()).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_stack_of_nixpkgs_is_told_and_other_programs_read_it() {
    let env = Env::new();
    let model = env.write("tiny.gguf", "not a model");
    let images = |told: &str| {
        format!(
            r#"let {REDIS} in w.buildStack {{ images = [
            (w.buildImage {{ name = "cache"; {told} config.Cmd = [ "${{pkgs.redis}}/bin/redis-server" ]; }})
            (w.buildImage {{ name = "tools"; contents = [ pkgs.busybox ]; deps = [ pkgs.zlib ]; texts."/v" = "1"; }}) ];
            models = [ (w.buildModel {{ name = "tiny"; files."weights.bin" = {}; annotations."org.opencontainers.image.licenses" = "LicenseRef-llama3.1"; }}) ]; }}"#,
            model.display()
        )
    };
    let told = format!("({}).lean", images("packages = [ redis ];"));
    let stack = build(&told).unwrap();
    let stack = stack.to_str().unwrap();

    // What is told of packages is an input of nothing, and changes no image.
    let needed = requisites(&told);
    assert!(needed.iter().all(|name| !name.contains("tar.gz") && !name.contains("patch")), "{needed:?}");
    let tags = |told: &str| eval(&format!("builtins.mapAttrs (_: image: image.imageTag) ({}).images", images(told)));
    assert_eq!(tags("packages = [ redis ];"), tags(""));
    let without = build(&format!("({}).lean", images(""))).unwrap();
    let digest = |stack: &Path| read(&stack.join("images/cache/image.json"))["digest"].clone();
    assert_eq!(digest(Path::new(stack)), digest(&without));

    let text = env.ok(["sbom", stack]);
    let bom: Value = serde_json::from_str(&text).unwrap();
    let all = components(&bom);
    let redis = all["redis"];
    assert_eq!((redis["version"].as_str(), redis["type"].as_str()), (Some("8.0.2"), Some("application")));
    assert_eq!(redis["licenses"][0]["expression"], "AGPL-3.0-only");
    assert_eq!(redis["cpe"], "cpe:2.3:a:redis:redis:8.0.2:*:*:*:*:*:*:*");
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        redis["externalReferences"],
        json!([
            { "type": "website", "url": "https://redis.io" },
            { "type": "source-distribution", "url": "https://download.redis.io/releases/redis-8.0.2.tar.gz",
              "hashes": [{ "alg": "SHA-256", "content": hash }] },
        ])
    );
    assert_eq!(properties(redis, "sourceUrl"), ["mirror://redis/redis-8.0.2.tar.gz"]);
    assert_eq!(redis["pedigree"]["patches"][0]["resolves"][0]["id"], "CVE-2024-31449");
    // What it is built with is told without being named; what nixpkgs does not say is unknown.
    assert_eq!(all["openssl"]["licenses"][0]["expression"], "Apache-2.0");
    assert_eq!(properties(all["liblzf"], "metadata"), ["nixpkgs"]);
    assert_eq!((properties(all["liblzf"], "licence"), &all["liblzf"]["licenses"]), (vec!["unknown"], &Value::Null));
    // References are those that Nix has.
    let depends: BTreeMap<&str, &Value> = bom["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["ref"].as_str().unwrap(), &one["dependsOn"]))
        .collect();
    let path = redis["bom-ref"].as_str().unwrap();
    let references = run_ok(crate::nix::nix("nix-store").args(["--query", "--references", path]));
    let mut references: Vec<&str> = references.lines().filter(|line| *line != path).collect();
    references.sort_unstable();
    assert_eq!(*depends[path], json!(references));
    let cache = all["localhost/cache"];
    assert_eq!(*depends[cache["bom-ref"].as_str().unwrap()], json!([path]));
    // The model.
    let tiny = all["tiny"];
    assert_eq!(
        (tiny["type"].as_str(), tiny["hashes"][0]["content"].as_str().unwrap().len()),
        (Some("machine-learning-model"), 64)
    );
    assert_eq!(tiny["licenses"][0]["expression"], "LicenseRef-llama3.1");

    layers_are_those_that_have_the_paths(&env, stack, &bom);

    // The same bytes elsewhere, of the stack of archives, and of a bundle.
    let mut other = env.windlass(["sbom", stack, "--output", "other.json"]);
    other.env("LC_ALL", "tr_TR.UTF-8").env("TZ", "Asia/Tokyo").env("HOME", "/nowhere");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(other.get_program()).args(other.get_args());
    shell.current_dir(env.path("")).envs(other.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_ok(&mut shell);
    assert_eq!(fs::read_to_string(env.path("other.json")).unwrap(), text);
    let archives = build(&images("packages = [ redis ];")).unwrap();
    assert_eq!(env.ok(["sbom", archives.to_str().unwrap()]), text);
    env.ok(["export", "--bundle", "stick", stack]);
    assert_eq!(env.ok(["sbom", "stick"]), text);

    // The formats' own libraries, and a scanner without a network.
    env.write("stack.cdx.json", &text);
    env.ok(["sbom", stack, "--format", "spdx", "--output", "stack.spdx.json"]);
    let one = format!("{stack}/images/tools");
    env.ok(["sbom", &one, "--output", "tools.cdx.json"]);
    env.ok(["sbom", &one, "--format", "spdx", "--output", "tools.spdx.json"]);
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", part("boms")).current_dir(env.path("")).args(["-c", VALIDATE]);
    let said = run_ok(python.args(["stack.cdx.json", "stack.spdx.json", "tools.cdx.json", "tools.spdx.json"]));
    assert_eq!(said, "checked 4\n");
    scanned(&env);
}

/// Each store path is in the layers that the document says, and in no other: their archives are read.
fn layers_are_those_that_have_the_paths(env: &Env, stack: &str, bom: &Value) {
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for image in ["cache", "tools"] {
        env.ok(["export", &format!("{stack}/images/{image}"), "--format", "oci", "--output", image]);
        let summary = read(&Path::new(stack).join(format!("images/{image}/image.json")));
        for layer in summary["platforms"][0]["layers"].as_array().unwrap() {
            let digest = layer["digest"].as_str().unwrap();
            let blob = env.path(image).join("blobs/sha256").join(&digest[7..]);
            let listing = run_ok(Command::new("tar").arg("--list").arg("--file").arg(blob));
            let paths = listing.lines().filter_map(|line| line.strip_prefix("nix/store/")?.split('/').next());
            members
                .entry(digest.to_owned())
                .or_default()
                .extend(paths.filter(|base| !base.is_empty()).map(str::to_owned));
        }
    }
    let mut seen = 0;
    for component in bom["components"].as_array().unwrap() {
        let Some(base) = component["bom-ref"].as_str().unwrap().strip_prefix("/nix/store/") else { continue };
        let told: BTreeSet<&str> = properties(component, "layer").into_iter().collect();
        let has = members.iter().filter(|(_, paths)| paths.contains(base)).map(|(digest, _)| digest.as_str());
        assert_eq!(told, has.collect(), "{base}");
        seen += 1;
    }
    assert!(seen > 8, "only {seen}");
}

/// A scanner finds the version that is vulnerable, and not the one that is not.
fn scanned(env: &Env) {
    let tool = |arguments: &[&str]| {
        // Without a network: it is to read what it is given.
        let mut command = Command::new("unshare");
        command.args(["--net", "python3"]).args(arguments).env("PYTHONPATH", part("scanner"));
        command.env("HOME", env.path("home")).current_dir(env.path("")).output().unwrap()
    };
    assert!(tool(&["-c", PLANT]).status.success());
    for (format, file) in [("cyclonedx", "stack.cdx.json"), ("spdx", "stack.spdx.json")] {
        let run = tool(&[
            "-m",
            "cve_bin_tool.cli",
            "--offline",
            "--sbom",
            format,
            "--sbom-file",
            file,
            "--format",
            "json",
            "--output-file",
            &format!("{format}.found.json"),
        ]);
        let found = read(&env.path(format!("{format}.found.json")));
        let found: Vec<[&str; 3]> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|one| ["cve_number", "product", "version"].map(|key| one[key].as_str().unwrap()))
            .collect();
        assert_eq!(found, [["CVE-2099-0001", "redis", "8.0.2"]], "{format}: {run:?}");
    }
}

/// An image of two store paths, `app -> lib`, with what is said of one of them.
fn image(env: &Env, packages: &Value) {
    let paths: [(&str, &[&str]); 2] = [("app-1.0", &["lib-3"]), ("lib-3", &[])];
    for (name, _) in paths {
        env.write(Path::new("store").join(base_name(name)), format!("I am {name}"));
    }
    let store = env.path("store");
    env.write("closure.json", closure(store.to_str().unwrap(), &store, &paths));
    let spec = json!({
        "kind": "image", "name": "app", "tag": "1", "platform": "linux/amd64", "storeDir": store, "packages": packages,
        "content": { "deps": [store.join(base_name("app-1.0"))] },
    });
    env.write("spec.json", spec.to_string());
    env.ok(["build", "spec.json", "--closure", "closure.json", "--output", "app"]);
}

#[test]
fn what_is_not_known_is_said_to_be_unknown_and_what_is_not_valid_is_left_out() {
    let env = Env::new();
    let store = env.path("store");
    let at = |name: &str| store.join(base_name(name)).display().to_string();
    image(&env, &json!([]));
    assert!(!env.path("app/packages.json").exists());
    let bom: Value = serde_json::from_str(&env.ok(["sbom", "app"])).unwrap();
    let all = components(&bom);
    assert_eq!((all["app"]["version"].as_str(), properties(all["app"], "metadata")), (Some("1.0"), vec!["unknown"]));
    assert!(bom["metadata"].get("timestamp").is_none());
    let spdx: Value = serde_json::from_str(&env.ok(["sbom", "app", "--format", "spdx"])).unwrap();
    assert_eq!(spdx["creationInfo"]["created"], "1970-01-01T00:00:01Z");
    let lib = spdx["packages"].as_array().unwrap().iter().find(|package| package["name"] == "lib").unwrap();
    assert_eq!((&lib["licenseDeclared"], &lib["downloadLocation"]), (&json!("NOASSERTION"), &json!("NOASSERTION")));

    // A package of which the image has nothing is not told; nor are texts that no reader would take.
    let package = json!({
        "pname": "lib", "version": "3", "outputs": { "out": at("lib-3"), "dev": at("lib-3-dev") },
        "licences": [{ "spdx": "MIT" }, { "name": "My own" }], "homepage": "no address", "cpe": "cpe:/a:lib", "purl": "lib",
    });
    let other = json!({ "pname": "other", "outputs": { "out": at("other") } });
    fs::rename(env.path("app"), env.path("before")).unwrap();
    image(&env, &json!([package, other]));
    let told = read(&env.path("app/packages.json"));
    assert_eq!(told.as_array().unwrap().len(), 1);
    assert_eq!(told[0]["outputs"], json!({ "out": at("lib-3") }));
    assert_eq!(read(&env.path("app/image.json")), read(&env.path("before/image.json")), "it is no part of the image");
    let bom: Value = serde_json::from_str(&env.ok(["sbom", "app"])).unwrap();
    let lib = components(&bom)["lib"].clone();
    assert_eq!(lib["licenses"][0]["expression"], "MIT AND LicenseRef-My-own");
    assert!(["cpe", "purl", "externalReferences"].iter().all(|key| lib.get(key).is_none()), "{lib}");
    let report: Value = serde_json::from_str(&env.ok(["sbom", "app", "--json"])).unwrap();
    assert_eq!((&report["paths"], &report["unknown"]), (&json!(2), &json!([at("app-1.0")])));
    let layers = read(&env.path("app/image.json"))["platforms"][0]["layers"].as_array().unwrap().len();
    let sentence =
        format!("x: 1 image, {layers} layer{}, 0 models, 2 store paths; ", if layers == 1 { "" } else { "s" });
    assert_eq!(env.ok(["sbom", "app", "-o", "x"]), format!("{sentence}nothing is known from nixpkgs of 1 of them\n"));

    // A time only where one is given.
    let at_time = |text: &str| {
        let mut command = env.windlass(["sbom", "app"]);
        command.env("SOURCE_DATE_EPOCH", text).output().unwrap()
    };
    let bom: Value = serde_json::from_slice(&at_time("1700000000").stdout).unwrap();
    assert_eq!(bom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let said = String::from_utf8(at_time("now").stderr).unwrap();
    assert_eq!(said, "windlass: SOURCE_DATE_EPOCH is 'now': expected seconds since 1970, or nothing\n");
    let (code, said) = env.fails(["sbom", "app", "--json", "--output", "-"]);
    assert!(
        code == 2 && said.contains("--output - and --json both are the result; give --output a file"),
        "{code} {said}"
    );
}

#[test]
fn images_of_registries_are_told_by_digest_also_where_others_are_built_upon_them() {
    let env = Env::new();
    let foreign = Foreign::new(&env);
    let lock = env.write("images.lock.json", foreign.lock("others").to_string());
    let base = format!(r#"w.fetchImage {{ lock = {}; name = "others"; }}"#, lock.display());
    let upstream = build(&base).unwrap();
    let above = build(&format!(r#"w.buildImage {{ name = "above"; fromImage = {base}; texts."/v" = "1"; }}"#)).unwrap();
    let text = env.ok([Path::new("sbom"), above.as_path(), upstream.as_path()]);
    let bom: Value = serde_json::from_str(&text).unwrap();
    let component = components(&bom)["example.com/others/others"].clone();
    let digest = foreign.digest().to_string();
    assert_eq!(component["bom-ref"], format!("example.com/others/others@{digest}"));
    assert_eq!((&component["version"], &component["hashes"][0]["content"]), (&json!("1.0"), &json!(&digest[7..])));
    let purl = format!("pkg:oci/others@sha256%3A{}?repository_url=example.com/others/others&tag=1.0", &digest[7..]);
    assert_eq!(component["purl"], purl);
    let needing: Vec<&str> = bom["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["dependsOn"].as_array().unwrap().contains(&component["bom-ref"]))
        .map(|one| one["ref"].as_str().unwrap().split(':').next().unwrap())
        .collect();
    assert_eq!(needing, ["localhost/above", "localhost/others"]);
    // Its blobs are no packages.
    assert!(!text.contains("oci-blob"), "{text}");
    env.write("above.cdx.json", &text);
    fs::write(env.path("above.spdx.json"), env.ok([Path::new("sbom"), above.as_path(), Path::new("--format=spdx")]))
        .unwrap();
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", part("boms")).current_dir(env.path("")).args(["-c", VALIDATE]);
    assert_eq!(run_ok(python.args(["above.cdx.json", "above.spdx.json"])), "checked 2\n");
}
