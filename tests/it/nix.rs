//! The Nix functions, under the Nix that is installed, with the stand-in for nixpkgs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::env::{Env, run_ok};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `nix` as the set-up has it: see `nix_env` in tests/parts.sh.
pub(crate) fn nix(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env(
        "NIX_CONFIG",
        "experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstitute = false",
    );
    command
}

/// Options for builds in the sandbox. Of the machine there is only what the program under test is linked with, which cargo
/// made: one that Nix made has it in its closure.
pub(crate) const SANDBOX: [&str; 9] = [
    "--option",
    "sandbox",
    "true",
    "--option",
    "sandbox-fallback",
    "false",
    "--option",
    "extra-sandbox-paths",
    "/lib /lib64?",
];

/// Builds an expression that may use `w`, the functions of nix/lib, and `pkgs`, the stand-in's packages.
pub(crate) fn build(expression: &str) -> Result<PathBuf, String> {
    let output = nix("nix-build").args(["--no-out-link", "--expr", &wrap(expression)]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout).into()) } else { Err(text(&output.stderr)) }
}

/// Evaluates such an expression to JSON, reading nothing that would have to be built.
pub(crate) fn eval(expression: &str) -> Value {
    try_eval(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

/// The same, or what Nix says is wrong with it.
pub(crate) fn try_eval(expression: &str) -> Result<Value, String> {
    let output = nix("nix-instantiate")
        .args([
            "--eval",
            "--strict",
            "--json",
            "--option",
            "allow-import-from-derivation",
            "false",
            "--expr",
            &wrap(expression),
        ])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// The derivations that have to be built for what such an expression gives, by name.
pub(crate) fn requisites(expression: &str) -> Vec<String> {
    let derivation = run_ok(nix("nix-instantiate").args(["--expr", &wrap(expression)]));
    let all = run_ok(nix("nix-store").args(["--query", "--requisites", derivation.trim()]));
    let name = |path: &str| path["/nix/store/".len() + 33..].strip_suffix(".drv").map(str::to_owned);
    all.lines().filter_map(name).collect()
}

/// The same expression for any command of Nix.
pub(crate) fn wrap(expression: &str) -> String {
    let root = root().display();
    let binary = env!("CARGO_BIN_EXE_windlass");
    // The builder is the program under test, outside the store as the sandbox is off.
    let windlass = format!("\"${{builtins.path {{ path = {binary}; name = \"windlass-under-test\"; }}}}\"");
    format!(
        "let pkgs = (builtins.getFlake \"path:{root}/target/nixpkgs\").legacyPackages.${{builtins.currentSystem}}; \
         bin = derivation {{ name = \"windlass\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"/bin/mkdir -p $out/bin && /bin/ln -s ${{{windlass}}} $out/bin/windlass\" ]; }}; \
         w = import {root}/nix/lib {{ windlass = bin; }}; in {expression}"
    )
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn digest(image: &Path) -> String {
    json(&image.join("image.json"))["digest"].as_str().unwrap().to_owned()
}

const REDIS: &str = r#"w.buildImage { name = "redis"; config.Cmd = [ "${pkgs.redis}/bin/redis-server" ]; }"#;

#[test]
fn a_config_brings_its_closure_and_the_names_are_known_before_the_build() {
    let names = eval(&format!("let i = {REDIS}; in {{ inherit (i) imageName imageTag imageRef; }}"));
    let image = build(REDIS).unwrap();
    let summary = json(&image.join("image.json"));
    assert_eq!(names["imageName"], "localhost/redis");
    assert_eq!(names["imageRef"], summary["ref"]);
    assert_eq!(names["imageTag"].as_str().unwrap().len(), 32);
    let owners: Vec<String> = summary["platforms"][0]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|layer| layer["owners"].as_array().unwrap())
        .map(|owner| owner.as_str().unwrap().to_owned())
        .collect();
    let redis = eval("\"${pkgs.redis}\"");
    let closure = run_ok(nix("nix-store").args(["--query", "--requisites", redis.as_str().unwrap()]));
    let mut closure: Vec<&str> = closure.lines().collect();
    let mut found: Vec<&str> = owners.iter().map(String::as_str).collect();
    closure.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, closure, "all of the closure, and the spec file is not in it");
    // What the image directory refers to is what keeps these paths alive.
    let references = run_ok(nix("nix-store").args(["--query", "--references"]).arg(&image));
    assert!(closure.iter().all(|path| references.contains(path)), "{references}");
    let size = run_ok(Command::new("du").args(["--summarize", "--bytes"]).arg(&image));
    assert!(size.split('\t').next().unwrap().parse::<u64>().unwrap() < 100_000, "lean: {size}");
}

#[test]
fn a_tag_depends_on_what_is_in_the_image_and_not_on_the_windlass_that_builds_it() {
    let env = Env::new();
    let model = env.write("m.gguf", vec![7; 1000]);
    let image = |functions: &str, cmd: &str| {
        eval(&format!(
            r#"let f = {functions}; m = f.buildModel {{ name = "m"; files."m.gguf" = {}; }}; base = f.buildLayer {{ deps = [ pkgs.zlib ]; }};
            in (f.buildIndex {{ name = "app"; images = [ (f.buildImage {{ name = "app"; models = [ m ]; layers = [ base ]; config.Cmd = [ "{cmd}" ]; }}) ]; }}).imageRef"#,
            model.display()
        ))
    };
    let other = format!(
        "import {}/nix/lib {{ windlass = derivation {{ name = \"another-windlass\"; system = builtins.currentSystem; builder = \"/bin/sh\"; }}; }}",
        root().display()
    );
    assert_eq!(image("w", "a"), image(&other, "a"));
    assert_ne!(image("w", "a"), image("w", "b"));
    let before = image("w", "a");
    env.write("m.gguf", vec![8; 1000]);
    assert_ne!(image("w", "a"), before, "another model");
}

#[test]
fn a_changed_app_does_not_build_the_model_again() {
    let env = Env::new();
    let model = env.write("m.gguf", vec![7; 3_000_000]);
    let model = model.display();
    let image = |text: &str| {
        format!(
            "let m = w.buildModel {{ name = \"m\"; files.\"m.gguf\" = {model}; }}; i = w.buildImage {{ name = \"app\"; models = [ m ]; texts.\"/v\" = \"{text}\"; }}; in "
        )
    };
    let models = ["1", "2"].map(|text| eval(&format!("{} \"${{m}}\"", image(text))));
    assert_eq!(models[0], models[1]);
    let images = ["1", "2"].map(|text| build(&format!("{} i", image(text))).unwrap());
    assert_ne!(images[0], images[1]);
    let layers = images.map(|image| json(&image.join("image.json"))["platforms"][0]["layers"].clone());
    assert_eq!(layers[0][0], layers[1][0], "the model is the lowest layer, and the same");
    assert_eq!(layers[0][0]["kind"], "model");
}

#[test]
fn layers_and_contents_are_shared_and_linked() {
    let image = build(
        r#"let base = w.buildLayer { name = "base"; deps = [ pkgs.openssl ]; perms = [ { path = pkgs.openssl; regex = "/lib/"; mode = "0555"; } ]; };
        in w.buildImage { name = "app"; layers = [ base ]; contents = [ pkgs.redis ]; maxLayers = 2; symlinks."/bin/sh" = "${pkgs.redis}/bin/redis-cli"; }"#,
    )
    .unwrap();
    let layers = json(&image.join("image.json"))["platforms"][0]["layers"].clone();
    let titles: Vec<&str> = layers.as_array().unwrap().iter().map(|layer| layer["why"].as_str().unwrap()).collect();
    assert_eq!(titles.len(), 4, "{titles:?}");
    assert_eq!(titles[0], "built by itself, as 'base'");
    let env = Env::new();
    env.ok(["export", image.to_str().unwrap(), "--output", "image.tar"]);
    let root = layers[3]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    run_ok(Command::new("tar").arg("-xf").arg(env.path("image.tar")).current_dir(env.path("")));
    let listing = run_ok(Command::new("tar").arg("-tvf").arg(env.path(format!("blobs/sha256/{root}"))));
    let redis = eval("\"${pkgs.redis}\"");
    let redis = redis.as_str().unwrap();
    assert!(listing.contains(&format!("bin/redis-server -> {redis}/bin/redis-server")), "{listing}");
    assert!(listing.contains(&format!("bin/sh -> {redis}/bin/redis-cli")), "{listing}");
}

#[test]
fn an_index_has_an_image_for_each_platform_and_the_model_once() {
    let env = Env::new();
    let model = env.write("m.gguf", vec![7; 2_000_000]);
    let index = build(&format!(
        r#"let m = w.buildModel {{ name = "m"; files."m.gguf" = {}; }};
        i = architecture: w.buildImage {{ name = "app"; models = [ m ]; inherit architecture; }};
        in (w.buildIndex {{ name = "app"; images = [ (i "amd64") (i "arm64") ]; }}).layout"#,
        model.display()
    ))
    .unwrap();
    let blobs =
        std::fs::read_dir(index.join("blobs/sha256")).unwrap().map(|blob| blob.unwrap().metadata().unwrap().len());
    assert_eq!(blobs.filter(|&size| size > 2_000_000).count(), 1);
    let raw = run_ok(Command::new("skopeo").args(["inspect", "--raw"]).arg(format!("oci:{}", index.display())));
    let raw: Value = serde_json::from_str(&raw).unwrap();
    let platforms: Vec<&Value> =
        raw["manifests"].as_array().unwrap().iter().map(|m| &m["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
}

#[test]
fn what_is_wrong_is_said_in_the_build_log() {
    for (expression, sentence) in [
        (r#"w.buildImage { name = "Redis"; }"#, "'Redis' is not an image name"),
        (r#"w.buildImage { name = "a"; tag = "latest"; }"#, "'latest' is a floating tag"),
        (r#"w.buildImage { name = "a"; config.Enb = [ ]; }"#, "config.Enb: unknown field `Enb`"),
        (r#"w.buildImage { name = "a"; config.Env = "A=1"; }"#, "config.Env: invalid type: string"),
        (
            r#"w.buildImage { name = "a"; created = "now"; }"#,
            "created: 'now' is not an RFC 3339 time; an image carries no wall-clock time",
        ),
        (r#"w.buildImage { name = "a"; contents = [ "/etc" ]; }"#, "content.contents: '/etc' is not below the store"),
    ] {
        let error = build(expression).unwrap_err();
        assert!(error.contains(sentence), "{expression}: {error}");
    }
}

#[test]
fn an_optimised_store_and_a_stack_give_the_same_digests() {
    let before = digest(&build(REDIS).unwrap());
    // `nix-store --optimise` only makes hard links of equal files: the same, on a copy that is thrown away.
    let env = Env::new();
    let redis = eval("\"${pkgs.redis}\"");
    let closure = run_ok(nix("nix-store").args(["--query", "--requisites", redis.as_str().unwrap()]));
    let info = run_ok(nix("nix").args(["path-info", "--json", "--recursive", redis.as_str().unwrap()]));
    env.write("closure.json", info);
    let config = format!("{}/bin/redis-server", redis.as_str().unwrap());
    env.write(
        "spec.json",
        serde_json::json!({"kind": "image", "name": "redis", "config": {"Cmd": [config]}}).to_string(),
    );
    env.ok(["build", "spec.json", "--closure", "closure.json", "--output", "by-hand"]);
    assert_eq!(digest(&env.path("by-hand")), before, "by hand and by Nix");
    env.ok(["build", "spec.json", "--output", "asked"]);
    assert_eq!(digest(&env.path("asked")), before, "with the closure asked of Nix");
    let optimise = format!(
        "mkdir -p {tmp}/nix && mount --bind {tmp}/nix {tmp}/nix && mkdir -p {tmp}/nix/store && cp -a {paths} {tmp}/nix/store/ \
         && mount --bind {tmp}/nix/store /nix/store && hardlink --quiet /nix/store && exec \"$0\" \"$@\"",
        tmp = env.path("").display(),
        paths = closure.lines().collect::<Vec<_>>().join(" ")
    );
    let windlass = env!("CARGO_BIN_EXE_windlass");
    let arguments = [windlass, "build", "spec.json", "--closure", "closure.json", "--output", "optimised"];
    run_ok(Command::new("unshare").args(["--mount", "sh", "-c", &optimise]).args(arguments).current_dir(env.path("")));
    assert_eq!(digest(&env.path("optimised")), before, "with equal files hard-linked");
}

/// A package with these commands as its build script.
fn package(name: &str, script: &str) -> String {
    format!(
        "(derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; PATH = \"/bin:/usr/bin\"; \
         args = [ \"-c\" ''{script}'' ]; }})"
    )
}

/// `tar -tv` of a layer of an image, links with their targets.
fn listing(image: &Path, layer: usize) -> String {
    let env = Env::new();
    env.ok(["export", image.to_str().unwrap(), "--format", "oci", "--output", "oci"]);
    let digest =
        json(&image.join("image.json"))["platforms"][0]["layers"][layer]["digest"].as_str().unwrap().to_owned();
    run_ok(Command::new("tar").arg("-tvf").arg(env.path("oci/blobs/sha256").join(&digest[7..])))
}

#[test]
fn links_to_directories_are_merged_like_directories() {
    let one = package("one-1", "mkdir -p $out/bin $out/nix-support; echo 1 > $out/bin/one; ln -s bin $out/sbin");
    let two = package("two-1", "mkdir -p $out/bin $out/nix-support; echo 2 > $out/bin/two; ln -s bin $out/sbin");
    let image = build(&format!(r#"w.buildImage {{ name = "a"; contents = [ {one} {two} ]; }}"#)).unwrap();
    let layer = listing(&image, 1);
    for entry in
        ["bin/one -> /nix/store/", "bin/two -> /nix/store/", "sbin/one -> /nix/store/", "sbin/two -> /nix/store/"]
    {
        assert!(layer.contains(entry), "{entry}: {layer}");
    }
    assert!(!layer.contains("nix-support"), "{layer}");
    // Alone, a link stays a link.
    let alone = build(&format!(r#"w.buildImage {{ name = "a"; contents = [ {one} ]; }}"#)).unwrap();
    assert!(listing(&alone, 1).contains(" sbin -> /nix/store/"));
}

#[test]
fn a_layer_brings_the_layers_that_it_lies_on() {
    let image = build(
        r#"let low = w.buildLayer { name = "low"; deps = [ pkgs.glibc ]; }; high = w.buildLayer { name = "high"; deps = [ pkgs.openssl ]; layers = [ low ]; };
        in w.buildImage { name = "a"; layers = [ high ]; deps = [ pkgs.openssl ]; mountPoints = false; }"#,
    )
    .unwrap();
    let layers = json(&image.join("image.json"))["platforms"][0]["layers"].clone();
    let whys: Vec<&str> = layers.as_array().unwrap().iter().map(|layer| layer["why"].as_str().unwrap()).collect();
    assert_eq!(whys, ["built by itself, as 'low'", "built by itself, as 'high'"], "and nothing is there twice");
}

#[test]
fn a_model_does_not_follow_a_link_out_of_the_store() {
    let model = package("model", "mkdir $out; ln -s /etc/hostname $out/m.gguf");
    let error = build(&format!(r#"w.buildModel {{ name = "m"; src = {model}; }}"#)).unwrap_err();
    assert!(error.contains("/m.gguf leads to /etc/hostname, which is not below /nix/store;"), "{error}");
    let inside = package("model", "mkdir $out; echo weights > $out/real; ln -s real $out/m.gguf");
    let image = build(&format!(r#"w.buildModel {{ name = "m"; src = {inside}; }}"#)).unwrap();
    let layer = listing(&image, 0);
    assert!(layer.lines().any(|line| line.starts_with("-r--r--r--") && line.ends_with("models/m.gguf")), "{layer}");
}

#[test]
fn a_stack_takes_an_index_as_it_is() {
    let env = Env::new();
    let model = env.write("m.gguf", vec![7; 2_000_000]);
    let stack = build(&format!(
        r#"let m = w.buildModel {{ name = "m"; files."m.gguf" = {}; }};
        i = architecture: w.buildImage {{ name = "app"; models = [ m ]; inherit architecture; }};
        in w.buildStack {{ images = [ (w.buildIndex {{ name = "app"; images = [ (i "amd64") (i "arm64") ]; }}) (w.buildImage {{ name = "b"; }}) ]; }}"#,
        model.display()
    ))
    .unwrap();
    let json = json(&stack.join("stack.json"));
    let images: Vec<[&str; 2]> = json["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| [&image["archive"], &image["platform"]].map(|value| value.as_str().unwrap()))
        .collect();
    let host = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    assert_eq!(images, [["images/app.tar", "linux/amd64"], ["images/app.tar", "linux/arm64"], ["images/b.tar", host]]);
    assert!(std::fs::metadata(stack.join("images/app.tar")).unwrap().len() < 100_000, "without the model");
    let script = std::fs::read_to_string(stack.join("load.sh")).unwrap();
    assert_eq!(script.matches("images/app.tar").count(), 1);
}

#[test]
fn what_lies_outside_the_store_stays_outside() {
    let env = Env::new();
    env.write("host/secret", "host");
    let host = env.path("host");
    let outside = package("outside", &format!("mkdir $out; ln -s {} $out/ssl", host.display()));
    let inside = package("inside", "mkdir -p $out/ssl; echo mine > $out/ssl/mine");
    let error = build(&format!(r#"w.buildImage {{ name = "a"; contents = [ {outside} {inside} ]; }}"#)).unwrap_err();
    assert!(error.contains("two inputs give different things at /ssl of the image"), "{error}");

    // A model, by a link on the way and by a link that the whole output is.
    for script in [format!("mkdir $out; ln -s {} $out/dir", host.display()), format!("ln -s {} $out", host.display())] {
        let model = package("leads-out", &script);
        let error = build(&format!(r#"w.buildModel {{ name = "m"; src = {model}; }}"#)).unwrap_err();
        assert!(
            error.contains("which is not below /nix/store; links are followed, but not out of the store"),
            "{error}"
        );
    }
    let error = build(&format!(
        r#"w.buildModel {{ name = "m"; files.x = "${{{}}}/dir/secret"; }}"#,
        package("leads-out", &format!("mkdir $out; ln -s {} $out/dir", host.display()))
    ));
    assert!(error.unwrap_err().contains("/dir/secret leads to "));
    // And a tree that is merged into `/`.
    let tree = package("leads-out", &format!("ln -s {} $out", host.display()));
    for key in ["contents", "copyToRoot"] {
        let error = build(&format!(r#"w.buildImage {{ name = "a"; {key} = [ {tree} ]; }}"#)).unwrap_err();
        assert!(
            error.contains("which is not below /nix/store; links are followed, but not out of the store"),
            "{key}: {error}"
        );
    }
}

#[test]
fn links_that_lead_back_are_told_and_do_not_hang() {
    let model = package("loop", "mkdir -p $out/a; echo 1 > $out/a/m.gguf; ln -s . $out/a/self");
    let error = build(&format!(r#"w.buildModel {{ name = "m"; src = {model}; }}"#)).unwrap_err();
    assert!(error.contains("/a/self leads back to "), "{error}");
    let pair = package("pair", "mkdir -p $out/a $out/b; ln -s ../b $out/a/b; ln -s ../a $out/b/a");
    let error = build(&format!(r#"w.buildModel {{ name = "m"; src = {pair}; }}"#)).unwrap_err();
    assert!(error.contains("following it would have no end"), "{error}");
    let packages = ["one", "two"].map(|name| package(name, "mkdir -p $out/inc; ln -s . $out/inc/n"));
    let [one, two] = packages;
    let error = build(&format!(r#"w.buildImage {{ name = "a"; contents = [ {one} {two} ]; }}"#)).unwrap_err();
    assert!(error.contains("/inc/n leads back to "), "{error}");
}

#[test]
fn a_link_to_a_directory_makes_room_for_what_is_asked_for_below_it() {
    let one = package("one", "mkdir -p $out/bin $out/tmp; echo 1 > $out/bin/one; ln -s bin $out/sbin");
    let image = build(&format!(
        r#"w.buildImage {{ name = "a"; contents = [ {one} ]; copyToRoot = [ {one} ]; symlinks."/sbin/x" = "/bin/one"; }}"#
    ));
    assert!(image.unwrap_err().contains("two inputs give different things at /bin/one"), "a link and a copy");
    let image =
        build(&format!(r#"w.buildImage {{ name = "a"; contents = [ {one} ]; symlinks."/sbin/x" = "/bin/one"; }}"#));
    let layer = listing(&image.unwrap(), 1);
    assert!(layer.contains(" sbin/x -> /bin/one") && layer.contains(" sbin/one -> /nix/store/"), "{layer}");
    // An input's own /tmp is as open as that of the mount points.
    let image = build(&format!(r#"w.buildImage {{ name = "a"; copyToRoot = [ {one} ]; }}"#)).unwrap();
    assert!(listing(&image, 0).lines().any(|line| line.starts_with("drwxrwxrwt") && line.ends_with(" tmp/")));
}

#[test]
fn a_stack_refuses_an_index_with_the_weights_of_another_model() {
    let env = Env::new();
    let files = ["one", "two"].map(|name| env.write(name, name).display().to_string());
    let model = |file: &str| format!(r#"(w.buildModel {{ name = "m"; files."m.gguf" = {file}; }})"#);
    let error = build(&format!(
        r#"w.buildStack {{ images = [
          (w.buildImage {{ name = "a"; models = [ {} ]; }})
          (w.buildIndex {{ name = "b"; images = [ (w.buildImage {{ name = "b"; models = [ {} ]; }}) ]; }})
        ]; }}"#,
        model(&files[0]),
        model(&files[1])
    ))
    .unwrap_err();
    assert!(error.contains("which no model of the stack has"), "{error}");
    let error = build(&format!(r#"w.buildStack {{ images = [ {} ]; }}"#, model(&files[0]))).unwrap_err();
    assert!(
        error.contains("localhost/m is a model; `images` are from buildImage, buildIndex, fetchImage or importImage"),
        "{error}"
    );
}

#[test]
fn with_a_plan_lock_an_image_has_the_same_digest_whatever_else_is_in_the_stack() {
    const POSTGRES: &str =
        r#"w.buildImage { name = "postgres"; config.Cmd = [ "${pkgs.postgresql_17}/bin/postgres" ]; }"#;
    let stack = |images: &[&str], more: &str, attribute: &str| {
        let images: Vec<String> = images.iter().map(|image| format!("({image})")).collect();
        build(&format!("(w.buildStack {{ name = \"ai\"; images = [ {} ]; {more} }}).{attribute}", images.join(" ")))
    };
    let redis = |stack: &Path| json(&stack.join("stack.json"))["images"].as_array().unwrap().last().unwrap().clone();
    let (alone, both) = (stack(&[REDIS], "", "lean").unwrap(), stack(&[REDIS, POSTGRES], "", "lean").unwrap());
    assert_ne!(redis(&alone)["digest"], redis(&both)["digest"], "what both need lies elsewhere");

    let env = Env::new();
    let said = env.ok(["plan", both.to_str().unwrap(), "--write", "plan.lock.json"]);
    assert!(said.contains("redis"), "{said}");
    let lock = json(&env.path("plan.lock.json"));
    assert_eq!(names_of(&lock["images"]), ["postgres", "redis"]);
    let more = format!("planLock = {};", env.path("plan.lock.json").display());
    for (images, attribute) in [(&[REDIS][..], "lean"), (&[REDIS, POSTGRES], "lean"), (&[REDIS, POSTGRES], "replanned")]
    {
        let locked = stack(images, &more, attribute).unwrap();
        assert_eq!(redis(&locked)["digest"], redis(&both)["digest"], "{}, {attribute}", images.len());
    }
    assert_eq!(redis(&stack(&[REDIS], &more, "replanned").unwrap())["digest"], redis(&alone)["digest"]);

    // One that a newer windlass wrote is not read.
    env.write("plan.lock.json", r#"{ "version": 2, "images": {} }"#);
    let error = stack(&[REDIS], &more, "lean").unwrap_err();
    assert!(error.contains("has version 2; this windlass reads version 1"), "{error}");
    // Nor is there anything to lock where no image has a closure.
    env.write("empty.json", r#"{ "kind": "image", "name": "empty" }"#);
    let (code, error) = env.fails(["plan", "empty.json", "--write", "plan.lock.json"]);
    assert!(code == 2 && error.contains("nothing to lock"), "{error}");
}

fn names_of(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
