//! The language model servers of the AI stack: what they bring for each `accel`, what they refuse to bring, and llama.cpp
//! running as its container is described.

use serde_json::{Value, json};

use crate::engine::{Podman, Said};
use crate::nix::{build, eval, root};
use crate::podman::wait_for;

/// The service NAME with packages that are nothing but a name and what they refer to.
fn service(name: &str, accel: &str, refers: &str) -> String {
    let root = root().display();
    format!(
        r#"(let
          fake = name: refers: derivation {{
            inherit name refers; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
            args = [ "-c" "mkdir $out; echo $refers > $out/refers" ];
          }};
          package = name: fake name (map (name: fake name [ ]) {refers});
          overridable = name: package name // {{ override = args: package (name + toString (builtins.attrNames args)); }};
          packages = {{
            llama-cpp = overridable "llama-cpp"; llama-cpp-vulkan = package "llama-cpp-vulkan";
            ollama = overridable "ollama"; ollama-vulkan = package "ollama-vulkan";
            ollama-rocm = package "ollama-rocm"; ollama-cuda = package "ollama-cuda";
            qdrant = package "qdrant"; mesa = fake "mesa" [ ]; cacert = fake "cacert" [ ];
          }};
        in import {root}/nix/ai-stack/{name}.nix {{
          pkgs = packages; windlass = w; accel = {accel}; probe = fake "probe" [ ]; models = [ ]; settings = {{ }};
          service = (import {root}/nix/ai-stack/services.nix).{name};
        }})"#
    )
}

#[test]
fn each_accel_brings_its_package_its_drivers_and_its_devices() {
    let all = |name: &str| {
        ["null", r#""vulkan""#, r#""rocm""#, r#""cuda""#].map(|accel| {
            let service = service(name, accel, "[ ]");
            eval(&format!(
                r#"let s = {service}; program = builtins.head s.image.spec.config.Entrypoint; in [
                  (builtins.substring 33 99 (baseNameOf (dirOf (dirOf program)))) s.container.devices
                  (map (e: builtins.head (builtins.split "=" e)) s.image.spec.config.Env) s.container.readOnly
                ]"#
            ))
        })
    };
    let vulkan = json!(["/dev/dri"]);
    let rocm = json!(["/dev/kfd", "/dev/dri"]);
    let cuda = json!(["nvidia.com/gpu=all"]);
    assert_eq!(
        all("llama-cpp"),
        [
            json!(["llama-cpp", [], ["HOME"], true]),
            json!(["llama-cpp-vulkan", vulkan, ["HOME", "XDG_DATA_DIRS"], true]),
            json!(["llama-cpprocmSupport", rocm, ["HOME"], true]),
            json!(["llama-cppcudaSupport", cuda, ["HOME", "LD_LIBRARY_PATH"], true]),
        ]
    );
    let variables = ["PATH", "HOME", "OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_NOPRUNE", "SSL_CERT_FILE"];
    let with = |more: &[&'static str]| [&variables[..], more].concat();
    assert_eq!(
        all("ollama"),
        [
            json!(["ollama", [], with(&[]), true]),
            json!(["ollama-vulkan", vulkan, with(&["XDG_DATA_DIRS", "OLLAMA_VULKAN"]), true]),
            json!(["ollama-rocm", rocm, with(&[]), true]),
            json!(["ollama-cuda", cuda, with(&["LD_LIBRARY_PATH"]), true]),
        ]
    );
}

#[test]
fn libraries_that_were_not_asked_for_are_refused() {
    let cuda =
        ["cuda_cudart-12.4.99", "cuda12.9-libcublas-12.9.1.4-lib", "libcublas-12.4.5.8", "cudnn-9.8", "nccl-2.27"];
    let rocm = ["rocm-runtime-6.4.3", "rocblas-6.4.3", "hipblas-6.4.3", "clr-6.4.3", "miopen-6.4.3", "hsa-rocr-6.4"];
    let other = ["glibc-2.42", "openblas-0.3.30", "libcurl-8.16", "vulkan-loader-1.4", "llvm-21", "rocksdb-10.5"];
    let names = |names: &[&str]| format!("[ {} ]", names.iter().map(|name| format!("{name:?} ")).collect::<String>());
    // Which of the names each accel forbids, by the expressions themselves.
    let forbidden = |name: &str, accel: &str| -> Value {
        let service = service(name, accel, "[ ]");
        eval(&format!("({service}).image.spec.forbid"))
    };
    for name in ["llama-cpp", "ollama"] {
        for (accel, of_cuda, of_rocm) in
            [("null", true, true), (r#""vulkan""#, true, true), (r#""rocm""#, true, false), (r#""cuda""#, false, true)]
        {
            let expressions: Vec<String> = serde_json::from_value(forbidden(name, accel)).unwrap();
            let fits = |path: &&str| {
                expressions.iter().any(|expression| regex::Regex::new(expression).unwrap().is_match(path))
            };
            assert_eq!(cuda.iter().filter(|path| fits(path)).count(), if of_cuda { cuda.len() } else { 0 }, "{accel}");
            assert_eq!(rocm.iter().filter(|path| fits(path)).count(), if of_rocm { rocm.len() } else { 0 }, "{accel}");
            assert_eq!(other.iter().find(|path| fits(path)), None, "{accel}");
        }
    }
    let image = |accel: &str, refers: &[&str]| build(&format!("{}.image", service("llama-cpp", accel, &names(refers))));
    let error = image("null", &["glibc-2.42", "cuda12.9-libcublas-12.9.1.4-lib"]).unwrap_err();
    assert!(
        error.contains("image 'llama-cpp': ") && error.contains("libcublas-12.9.1.4-lib is forbidden by 'cuda'"),
        "{error}"
    );
    assert!(error.contains("-llama-cpp -> "), "{error}");
    assert!(image(r#""vulkan""#, &["rocblas-6.4.3"]).unwrap_err().contains("-rocblas-6.4.3 is forbidden by '^roc("));
    image(r#""cuda""#, &["cuda12.9-libcublas-12.9.1.4-lib"]).unwrap();
    image(r#""rocm""#, &["rocblas-6.4.3"]).unwrap();
}

/// Options of `podman run` for what a service says of its container.
fn options(container: &Value) -> Vec<String> {
    let list = |key: &str| container[key].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned());
    let mut options = vec!["--read-only".to_owned(), "--security-opt=no-new-privileges".to_owned()];
    assert_eq!((&container["readOnly"], &container["noNewPrivileges"]), (&json!(true), &json!(true)));
    options.extend(list("tmpfs").map(|place| format!("--tmpfs={place}")));
    options.extend(list("capDrop").map(|name| format!("--cap-drop={name}")));
    options.push(format!("--health-cmd={}", container["health"]["command"]));
    options.extend(["--health-interval=disable".to_owned()]);
    options
}

#[test]
fn llama_cpp_serves_its_only_model_and_is_healthy_when_it_does() {
    let root = root().display();
    let service = format!(
        r#"(import {root}/nix/ai-stack/llama-cpp.nix {{
          inherit pkgs; windlass = w; probe = pkgs.callPackage {root}/nix/probe.nix {{ }};
          service = (import {root}/nix/ai-stack/services.nix).llama-cpp;
          models = [ (w.buildModel {{ name = "smollm2"; files."smollm2.gguf" = pkgs.windlassModels.smollm2; }}) ];
        }})"#
    );
    let described = eval(&format!(
        r#"let s = {service}; in {{ inherit (s) container state; ref = s.image.imageRef; serve = s.serve "/models/smollm2.gguf"; }}"#
    ));
    let archive = build(&format!("{service}.image.archive")).unwrap();
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let image = described["ref"].as_str().unwrap();
    let inspected: Value = serde_json::from_str(&podman.run(&["image", "inspect", image])).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!(
        (&config["User"], &config["Cmd"]),
        (&json!("8080:8080"), &described["serve"]),
        "it serves without flags"
    );

    let fixed = ["run", "--detach", "--pull=never", "--network=none", "--name=llama"].map(str::to_owned);
    let arguments = [&fixed[..], &options(&described["container"]), &[image.to_owned()]].concat();
    podman.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let probe = |url: &str| {
        let mut command = podman.command("podman");
        command.args(["exec", "llama", "/bin/windlass-probe", "http", url, "--contains", "ok"]);
        command
    };
    let mut healthy = podman.command("sh");
    healthy.args(["-c", "podman healthcheck run llama && echo is healthy"]);
    wait_for(healthy, "is healthy");
    let said = Said::of(&probe("http://localhost:8080/health").output().unwrap());
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said:?}");
    let said = Said::of(&probe("http://127.0.0.1:8080/v1/nothing").output().unwrap());
    assert_eq!((said.code, said.stdout.as_str()), (1, "127.0.0.1:8080: status 404\n"), "{said:?}");
    let said = Said::of(&probe("http://127.0.0.1:8081/health").output().unwrap());
    assert_eq!((said.code, said.stdout.as_str()), (1, "127.0.0.1:8081: Connection refused\n"), "{said:?}");
    assert_eq!(
        podman.run(&["exec", "llama", "/bin/windlass-probe", "exec", "--", "/bin/windlass-probe", "--help"]),
        "Ask a service whether it works\n"
    );
}
