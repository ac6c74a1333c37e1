//! The templates for CI in docs/ci, run: their steps, in their order, with their shell, against a real Nix, Podman and registry.
//! What is not a command here is what the services themselves do: they check out, install Nix and keep a folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::engine::Podman;
use crate::env::run_ok;
use crate::nix::{root, wrap};
use crate::registry_server::RealRegistry;

const STACK: &str = r#"(w.buildStack { name = "ai"; images = [
    (w.buildImage { name = "redis"; tag = "1"; config.Cmd = [ "${pkgs.redis}/bin/redis-server" "--version" ]; })
]; })"#;

/// A repository whose flake has the stack, and a machine that runs its jobs.
struct Ci {
    podman: Podman,
    registry: RealRegistry,
    variables: BTreeMap<String, String>,
}

impl Ci {
    fn new() -> Self {
        let podman = Podman::new();
        let (registry, certificate) = RealRegistry::with_tls_and_login(&podman.env, "me", "secret");
        let env = &podman.env;
        let write = |path: &str, text: &str, mode: u32| {
            let path = env.write(path, text);
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        for folder in ["repository/ci", "programs", "home", "temporary"] {
            fs::create_dir_all(env.path(folder)).unwrap();
        }
        for lock in ["images.lock.json", "models.lock.json", "flake.lock"] {
            write(&format!("repository/{lock}"), "{}", 0o644);
        }
        write("repository/images.lock.json", r#"{ "version": 1, "images": {} }"#, 0o644);
        // A test image of their own.
        let tests = r#"{ "version": 1, "images": { "tests": { "containerfile": "image/File", "context": "image" } } }"#;
        write("repository/windlass-cache.json", tests, 0o644);
        write("repository/image/File", "FROM scratch\nCOPY . /\n", 0o644);
        let cache = fs::read_to_string(root().join("docs/ci/nix-cache.sh")).unwrap();
        write("repository/ci/nix-cache.sh", &cache, 0o755);
        write("repository/ci/test-backend", "podman run --rm --pull=never --network=none localhost/redis:1\n", 0o755);
        write("stack.nix", &wrap(&format!("{STACK}.lean")), 0o644);
        // What the branch has that a change is to go into.
        let before = STACK.replace("\"--version\"", "\"--help\"");
        write("stack.nix.base", &wrap(&format!("{before}.lean")), 0o644);
        // The flake's inputs come from a network; everything else is Nix itself.
        let shim = format!(
            "#!/bin/sh\ncase \"$*\" in\n'profile install --inputs-from . windlass') exit ;;\nbuild*) ;;\n*) exec {nix} \"$@\" ;;\nesac\n\
             [ \"$2\" = .#ai-stack-images.lean ] || exit 99\nshift 2\nfile={file}\n\
             case $PWD in */base) file=$file.base ;; esac\nexec {nix} build --impure --expr \"$(cat $file)\" \"$@\"\n",
            nix = run_ok(Command::new("which").arg("nix")).trim(),
            file = env.path("stack.nix").display(),
        );
        write("programs/nix", &shim, 0o755);
        let windlass = env.path("programs/windlass");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_windlass"), windlass).unwrap();
        let path = format!("{}:{}", env.path("programs").display(), std::env::var("PATH").unwrap());
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let variables = [
            ("PATH", path),
            ("HOME", text(env.path("home"))),
            ("TMPDIR", text(env.path("temporary"))),
            // Where `podman login` writes to.
            ("XDG_RUNTIME_DIR", text(env.path("home"))),
            ("SSL_CERT_FILE", text(certificate.clone())),
            ("NIX_SSL_CERT_FILE", text(certificate)),
            // What a runner's Nix asks for a path, and that is the cache alone.
            (
                "NIX_CONFIG",
                "experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstituters ="
                    .to_owned(),
            ),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { podman, registry, variables }
    }

    /// The template as JSON, with this registry for the service's.
    fn template(&self, name: &str, host: &str) -> Value {
        let text = fs::read_to_string(root().join("docs/ci").join(name)).unwrap();
        let file = self.podman.env.write(name, text.replace(host, &self.registry.host));
        let program = "import json, sys, yaml\njson.dump(yaml.load(open(sys.argv[1]), yaml.BaseLoader), sys.stdout)";
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", root().join("target/parts/python")).args(["-c", program]).arg(file);
        serde_json::from_str(&run_ok(&mut python)).unwrap()
    }

    /// Runs a script as the services do: bash, and the first command that fails ends it.
    fn run(&self, script: &str, variables: &[(String, String)]) -> Output {
        let mut bash = self.podman.command("bash");
        bash.args(["-e", "-o", "pipefail", "-c", script]).current_dir(self.podman.env.path("repository"));
        bash.envs(&self.variables).envs(variables.iter().cloned()).output().unwrap()
    }

    /// The steps of a job of GitHub's, up to the first that fails: what each printed, and whether all went well.
    fn github(&self, job: &Value, repository: &str, actor: &str, token: &str) -> (String, bool) {
        let (mut said, mut outputs) = (String::new(), BTreeMap::new());
        let file = self.podman.env.path("github-output");
        for step in job["steps"].as_array().unwrap() {
            let Some(script) = step["run"].as_str() else { continue };
            let fill =
                |text: &str| text.replace("${{ github.token }}", token).replace("${{ github.repository }}", repository);
            let images = format!("{}/{repository}", self.registry.host);
            let mut variables: Vec<_> =
                [("IMAGES", images.as_str()), ("GITHUB_ACTOR", actor), ("GITHUB_OUTPUT", file.to_str().unwrap())]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into();
            for (name, value) in step["env"].as_object().into_iter().flatten() {
                variables.push((name.clone(), fill(value.as_str().unwrap())));
            }
            fs::write(&file, "").unwrap();
            let Output { status, stdout, stderr } = self.run(&fill(script), &variables);
            said.extend(["$ ", script, "\n", &*String::from_utf8_lossy(&stdout), &*String::from_utf8_lossy(&stderr)]);
            if !status.success() {
                return (said, false);
            }
            for line in fs::read_to_string(&file).unwrap().lines() {
                let (name, value) = line.split_once('=').unwrap();
                outputs.insert(format!("steps.{}.outputs.{name}", step["id"].as_str().unwrap()), value.to_owned());
            }
        }
        // What the cache is called is what a step printed.
        let key = job["steps"].as_array().unwrap().iter().find_map(|step| step["with"]["key"].as_str()).unwrap();
        let asked = key.split("${{ ").nth(1).unwrap().split(" }}").next().unwrap();
        assert_eq!(outputs[asked].len(), 32, "{outputs:?}");
        (said, true)
    }

    fn manifest(&self, reference: &str) -> Value {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--tls-verify=false", "--creds", "me:secret"]);
        serde_json::from_str(&run_ok(skopeo.arg(format!("docker://{}/{reference}", self.registry.host)))).unwrap()
    }
}

fn line<'t>(text: &'t str, start: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line begins with {start:?}: {text}"))
}

#[test]
fn the_jobs_for_github_build_load_test_and_push() {
    let ci = Ci::new();
    let template = ci.template("github.yml", "ghcr.io");
    // The least of rights: none for all, and writing packages where they are pushed.
    assert_eq!(template["permissions"], serde_json::json!({}));
    for (name, job) in template["jobs"].as_object().unwrap() {
        let expected = if name == "push" { "write" } else { "" };
        assert_eq!(job["permissions"]["packages"].as_str().unwrap_or_default(), expected, "{name}");
        assert_eq!(
            (&job["permissions"]["contents"], &job["runs-on"]),
            (&"read".into(), &"ubuntu-latest".into()),
            "{name}"
        );
    }

    let job = |name: &str| ci.github(&template["jobs"][name], "team/app", "me", "secret");
    let (said, well) = job("test_backend");
    assert!(well, "{said}");
    assert!(line(&said, "cache: ").starts_with("cache: 0 of "), "{said}");
    assert!(said.contains("1 image, 0 models: 1 loaded, 0 present") && said.contains("Redis server v="), "{said}");
    assert!(said.contains("1 image: 0 hit, 1 missed, 1 built"), "{said}");
    // The next run finds all of it in what was kept, and pushes.
    let (said, well) = job("push");
    assert!(well, "{said}");
    let rate = line(&said, "cache: ");
    let numbers: Vec<&str> = rate.split(' ').filter(|word| word.parse::<u32>().is_ok()).collect();
    assert!(numbers[0] == numbers[1] && numbers[0] != "0", "{rate}");
    let stack: Value =
        serde_json::from_slice(&fs::read(ci.podman.env.path("repository/result/stack.json")).unwrap()).unwrap();
    assert_eq!(ci.manifest("team/app/redis:1")["Digest"], stack["images"][0]["digest"]);

    // A store that has nothing gets all of it from there, and builds nothing.
    let empty = ci.podman.env.path("empty");
    let variables = [("NIX_REMOTE".to_owned(), format!("local?root={}", empty.display()))];
    let Output { stdout, stderr, .. } = ci.run("./ci/nix-cache.sh build .nix-cache .#ai-stack-images.lean", &variables);
    let (said, log) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert_eq!(line(&said, "cache: "), rate, "{log}");
    assert!(!log.contains("building '"), "{log}");

    // A failure of any step is one of the job.
    let (said, well) = ci.github(&template["jobs"]["push"], "team/app", "me", "wrong");
    assert!(
        !well && said.lines().any(|line| line.starts_with("$ podman login")) && !said.contains("$ windlass push"),
        "{said}"
    );
    ci.podman.env.write("repository/ci/test-backend", "exit 3\n");
    let (said, well) = job("test_backend");
    assert!(!well && !said.contains("$ windlass status\n"), "{said}");
    assert!(said.contains("1 image: 1 hit, 0 missed"), "{said}");
}

#[test]
fn the_job_for_gitlab_pushes_with_the_token_of_the_job() {
    let ci = Ci::new();
    let template = ci.template("gitlab.yml", "registry.gitlab.com");
    let script = template["images"]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let script = script.collect::<Vec<_>>().join("\n");
    let repository = ci.podman.env.path("repository");
    let variables = |password: &str| {
        let auth = template["images"]["variables"]["REGISTRY_AUTH_FILE"].as_str().unwrap();
        let image = format!("{}/team/app", ci.registry.host);
        [
            ("REGISTRY_AUTH_FILE", auth.replace("$CI_PROJECT_DIR", repository.to_str().unwrap())),
            ("CI_REGISTRY", ci.registry.host.clone()),
            ("CI_REGISTRY_IMAGE", image),
            ("CI_REGISTRY_USER", "me".to_owned()),
            ("CI_REGISTRY_PASSWORD", password.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    };
    let Output { status, stderr, .. } = ci.run(&script, &variables("wrong"));
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.code() == Some(7) && said.contains("the login"), "{said}");
    let Output { status, stdout, stderr } = ci.run(&script, &variables("secret"));
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success() && !said.contains("secret"), "{said}{}", String::from_utf8_lossy(&stderr));
    let stack: Value = serde_json::from_slice(&fs::read(repository.join("stack.json")).unwrap()).unwrap();
    assert_eq!(ci.manifest("team/app/redis:1")["Digest"], stack["images"][0]["digest"]);
    // The runner keeps the images that Containerfiles build.
    let lines = template["test_backend"]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let update = lines.into_iter().find(|line| line.contains("windlass cache update")).unwrap();
    assert_eq!(template["test_backend"]["cache"]["paths"], serde_json::json!(["cache"]));
    for rate in ["1 image: 0 hit, 1 missed, 1 built", "1 image: 1 hit, 0 missed"] {
        let Output { stdout, stderr, .. } = ci.run(update, &[]);
        let said = String::from_utf8_lossy(&stdout).into_owned();
        assert!(said.contains(rate), "{said}{}", String::from_utf8_lossy(&stderr));
    }
    // The deploy jobs of both services load what was tested, and build nothing.
    let github = ci.template("github.yml", "ghcr.io");
    for job in ["deploy_staging", "deploy_production"] {
        assert_eq!(template[job]["cache"]["policy"], "pull");
        let lines = template[job]["script"].as_array().unwrap().iter();
        let lines = lines.chain(github["jobs"][job]["steps"].as_array().unwrap().iter().map(|step| &step["run"]));
        let loads: Vec<&str> = lines.filter_map(Value::as_str).filter(|line| line.contains("cache load")).collect();
        assert_eq!(loads.len(), 2, "{job}");
        for line in loads {
            ci.podman.run(&["rmi", "--all", "--force"]);
            let Output { status, stdout, stderr } = ci.run(line, &[]);
            let said = String::from_utf8_lossy(&stdout).into_owned();
            assert!(
                status.success() && said.contains("1 image: 1 hit, 0 missed"),
                "{said}{}",
                String::from_utf8_lossy(&stderr)
            );
        }
    }
    // No other user reads the login, and it is not among the files that are kept.
    let auth = PathBuf::from(format!("{}.auth.json", repository.display()));
    assert_eq!(fs::metadata(&auth).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = template["images"]["cache"]["paths"]
        .as_array()
        .unwrap()
        .iter()
        .chain(template["images"]["artifacts"]["paths"].as_array().unwrap());
    assert!(kept.into_iter().all(|path| !auth.starts_with(repository.join(path.as_str().unwrap()))));
}

#[test]
fn a_change_is_told_to_those_who_look_at_it() {
    let ci = Ci::new();
    let git = "git init --quiet --initial-branch=change && git add . && \
               git -c user.name=me -c user.email=me@localhost commit --quiet --message=m && git update-ref refs/remotes/origin/main HEAD";
    let Output { status, stderr, .. } = ci.run(git, &[]);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let repository = ci.podman.env.path("repository");
    let summary = ci.podman.env.path("summary");
    let variables = [
        ("GITHUB_BASE_REF", "main"),
        ("CI_DEFAULT_BRANCH", "main"),
        ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (github, gitlab) = (ci.template("github.yml", "ghcr.io"), ci.template("gitlab.yml", "registry.gitlab.com"));
    // A shell for each step there, one for all lines here.
    let steps: Vec<&str> =
        github["jobs"]["report"]["steps"].as_array().unwrap().iter().filter_map(|step| step["run"].as_str()).collect();
    let lines: Vec<&str> =
        gitlab["report"]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let mut told = Vec::new();
    for (scripts, text) in [(steps, summary.clone()), (vec![&*lines.join("\n")], repository.join("report.md"))] {
        for script in scripts {
            let Output { status, stderr, .. } = ci.run(script, &variables);
            assert!(status.success(), "{script}: {}", String::from_utf8_lossy(&stderr));
        }
        assert!(fs::read_to_string(repository.join("report.html")).unwrap().contains("#changes"));
        fs::remove_file(repository.join("report.html")).unwrap();
        told.push(fs::read_to_string(text).unwrap());
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0].contains("\n| `redis` | changed | ") && told[0].contains("`command changed`"), "{}", told[0]);
    // What a merge request links to is what was made.
    let kept = gitlab["report"]["artifacts"]["paths"].as_array().unwrap();
    assert_eq!(kept, &["report.md", "report.html"]);
    assert_eq!(github["jobs"]["report"]["permissions"], serde_json::json!({ "contents": "read" }));
}

#[test]
fn the_key_of_the_cache_is_made_of_the_locked_digests() {
    let env = crate::env::Env::new();
    let script = root().join("docs/ci/nix-cache.sh");
    let key = || run_ok(Command::new(&script).arg("key").current_dir(env.path("")));
    let mut keys = vec![key()];
    for (lock, text) in
        [("images.lock.json", "1"), ("models.lock.json", "1"), ("flake.lock", "1"), ("images.lock.json", "2")]
    {
        env.write(lock, text);
        keys.push(key());
    }
    assert_eq!(keys[4], {
        env.write("other.json", "1");
        key()
    });
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 5);
    let wrong = Command::new(script).arg("store").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("nix-cache.sh build DIRECTORY INSTALLABLE"));
}

#[test]
fn actions_are_named_with_a_version() {
    for name in ["github.yml", "upstream-github.yml"] {
        let text = fs::read_to_string(Path::new(root()).join("docs/ci").join(name)).unwrap();
        let used: Vec<&str> =
            text.lines().filter_map(|line| line.split_once("uses: ")).map(|(_, action)| action).collect();
        assert!(!used.is_empty());
        assert!(
            used.iter()
                .all(|action| action.split_once("@v").is_some_and(|(_, version)| version.parse::<u32>().is_ok())),
            "{used:?}"
        );
    }
}
