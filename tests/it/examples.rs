//! Every folder of `examples/`: it is built, loaded into a Podman and run, or evaluated as what it is a part of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::engine::Podman;
use crate::env::{Env, run_ok};
use crate::flake::{flake, tracked};
use crate::machine::{containers_without_a_network, evaluated, values};
use crate::nix::{nix, root};

/// The folders, as a newcomer finds them.
const EXAMPLES: [&str; 12] = [
    "commands",
    "compose",
    "hello",
    "home",
    "model",
    "multi-arch",
    "nixos",
    "on-top",
    "own-user",
    "services",
    "two-services",
    "without-nix",
];

fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// What `nix VERB` says of an attribute of flakes, each copied out of the repository as its user has it.
fn asked<const N: usize>(verb: &[&str], attribute: &str, names: [&str; N]) -> [Value; N] {
    let windlass = tracked();
    let input = format!("path:{}", windlass.path("").display());
    names.map(|name| {
        let env = Env::new();
        env.write("flake.nix", fs::read(example(name).join("flake.nix")).unwrap());
        let place = format!("path:{}#{attribute}", env.path("").display());
        flake(verb, &place, &["--override-input", "windlass", &input])
    })
}

/// Builds the default package of flakes.
fn built<const N: usize>(names: [&str; N]) -> [PathBuf; N] {
    asked(&["build", "--no-link"], "default", names)
        .map(|outputs| PathBuf::from(outputs[0]["outputs"]["out"].as_str().unwrap()))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The digests of an image's layers, bottom first.
fn layers(platform: &Value) -> Vec<&str> {
    platform["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap()).collect()
}

#[test]
fn each_is_known_here_and_told_of_in_their_readme() {
    let folders = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap());
    let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
    let there: BTreeSet<String> = folders.map(|folder| folder.file_name().into_string().unwrap()).collect();
    assert_eq!(there, EXAMPLES.map(str::to_owned).into());
    let readme = fs::read_to_string(root().join("examples/README.md")).unwrap();
    for name in EXAMPLES {
        assert!(readme.contains(&format!("| [{name}]({name}/")), "{name} is not in examples/README.md");
    }
}

#[test]
fn images_of_one_program_say_what_they_should() {
    let podman = Podman::linked();
    let said = [
        ("hello", "hello from the Nix store\n"),
        ("own-user", "app 400 /etc/app.conf\napp 700 /data\n"),
        ("commands", "1000:100 750 /srv/app\n"),
        ("on-top", "hello from above, and from below\nbase 1.0\n"),
    ];
    let images = built(said.map(|(name, _)| name));
    for ((name, expected), image) in said.iter().zip(&images) {
        assert_eq!(podman.load(image, &[]).code, 0);
        let reference = json(&image.join("image.json"))["ref"].as_str().unwrap().to_owned();
        assert_eq!(podman.run(&["run", "--rm", "--network=none", "--pull=never", &reference]), *expected, "{name}");
    }
}

#[test]
fn an_image_of_another_platform_needs_a_builder_of_it() {
    // This machine is not one; what would be built there is known.
    let [index] = asked(&["eval"], "packages.x86_64-linux.default.drvPath", ["multi-arch"]);
    let needed = run_ok(nix("nix-store").args(["--query", "--requisites", index.as_str().unwrap()]));
    let images = needed.lines().filter(|path| path.ends_with("-image-hello.drv"));
    let systems: BTreeSet<String> = images.map(|path| derivation(path)["system"].to_string()).collect();
    assert_eq!(systems, ["\"aarch64-linux\"", "\"x86_64-linux\""].map(str::to_owned).into());
}

fn derivation(path: &str) -> Value {
    let shown: Value = serde_json::from_str(&run_ok(nix("nix").args(["show-derivation", path]))).unwrap();
    shown[path].clone()
}

#[test]
fn what_two_services_need_is_stored_once() {
    let podman = Podman::linked();
    let [stack] = built(["two-services"]);
    assert_eq!(podman.load(&stack, &[]).code, 0);
    let images = json(&stack.join("stack.json"))["images"].as_array().unwrap().clone();
    let [first, second] = &images[..] else { panic!("{images:?}") };
    let of = |image: &Value| json(&stack.join("images").join(image["name"].as_str().unwrap()).join("image.json"));
    let (first, second) = (of(first), of(second));
    let of_second = layers(&second["platforms"][0]);
    let shared = layers(&first["platforms"][0]).into_iter().filter(|layer| of_second.contains(layer)).count();
    assert!(shared > 2, "{shared} layers are shared");
    let postgres = [&first, &second].into_iter().find(|image| image["name"] == "localhost/postgres").unwrap();
    let reference = postgres["ref"].as_str().unwrap();
    let version = podman.run(&["run", "--rm", "--network=none", "--pull=never", reference, "postgres", "--version"]);
    assert!(version.starts_with("postgres (PostgreSQL) 17."), "{version}");
}

#[test]
fn the_pinned_model_lies_at_the_bottom() {
    // What a fetch from Hugging Face would give: the file with that hash and under that name.
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    run_ok(nix("nix-store").args(["--add-fixed", "sha256"]).arg(root().join("target/parts").join(file)));
    let podman = Podman::linked();
    let [image] = built(["model"]);
    assert_eq!(podman.load(&image, &[]).code, 0);
    let summary = json(&image.join("image.json"));
    let bottom = &summary["platforms"][0]["layers"][0];
    assert_eq!(bottom["kind"], "model", "{bottom}");
    let path = format!("/models/{file}");
    let reference = summary["ref"].as_str().unwrap();
    podman.run(&["create", "--name=llama", "--network=none", "--pull=never", reference]);
    let mounted = podman.run(&["mount", "llama"]);
    let size = fs::metadata(Path::new(mounted.trim()).join(&path[1..])).unwrap().len();
    podman.run(&["rm", "llama"]);
    assert_eq!(size, 98_362_432);
}

#[test]
fn a_stack_with_services_goes_out_as_a_compose_file() {
    let (env, [stack]) = (Env::new(), built(["services"]));
    let text = env.ok(["compose", "export", stack.to_str().unwrap()]);
    for line in ["cache:/data", "127.0.0.1:6379:6379", "--appendonly", "redis-cli"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn machines_and_homes_load_first_and_pull_nothing() {
    let machine = format!("{}", example("nixos").join("machine.nix").display());
    let [nixos] = evaluated("[ windlass ]", [&machine]);
    assert_eq!((containers_without_a_network(&nixos), &nixos["assertions"]), (2, &serde_json::json!([])));
    for unit in ["podman-cache.service", "podman-web.service"] {
        let text = nixos["units"][unit].as_str().unwrap();
        assert!(values(text, "After").iter().any(|after| after.contains("windlass-load.service")), "{unit}: {text}");
    }
    let file = format!("{}", example("home").join("home.nix").display());
    let [home] = evaluated("[ home ]", [&file]);
    assert_eq!((containers_without_a_network(&home), &home["assertions"]), (1, &serde_json::json!([])));
}

#[test]
fn the_compose_file_becomes_a_configuration() {
    let env = Env::new();
    env.write("compose.yml", fs::read(example("compose").join("compose.yml")).unwrap());
    let account = env.ok(["compose", "import", "compose.yml", "--output", "stack.nix"]);
    let module = env.path("stack.nix");
    let [machine] = evaluated("[ windlass stack services ]", [module.to_str().unwrap()]);
    let scripts = machine["scripts"].to_string();
    assert!(scripts.contains("--memory") && scripts.contains("6379"), "{account}\n{scripts}");
}

#[test]
fn the_scripts_without_nix_load_and_run() {
    let podman = Podman::linked();
    let folder = |name: &str| {
        let folder = podman.env.path(name);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let path = format!(
        "{}:{}",
        Path::new(env!("CARGO_BIN_EXE_windlass")).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let run = |script: &str, place: &Path, arguments: &[&str]| {
        let script = example("without-nix").join(script);
        let mut command: Command = podman.command(script.to_str().unwrap());
        run_ok(command.args(arguments).current_dir(place).env("PATH", &path))
    };
    let said = run("hello.sh", &folder("hello"), &[]);
    assert!(said.ends_with("no Nix was needed\n"), "{said}");
    let model = root().join("target/parts/SmolLM2-135M-Instruct.Q4_1.gguf");
    let said = run("model.sh", &folder("model"), &[model.to_str().unwrap()]);
    assert!(said.contains("SmolLM2") && said.lines().last().unwrap().contains("localhost/words"), "{said}");
}
