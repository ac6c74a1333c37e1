//! What the tests share: a folder of their own, and windlass run in it with nothing of the caller's environment.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The verbs that do something, as the program's help has them: `gc`, `upstream check`.
pub(crate) fn verbs() -> BTreeSet<String> {
    fn below(env: &Env, group: &[&str], found: &mut BTreeSet<String>) {
        let help = env.ok([group, &["--help"]].concat());
        let Some((_, commands)) = help.split_once("\nCommands:\n") else {
            found.insert(group.join(" "));
            return;
        };
        let commands = commands.split("\n\n").next().unwrap();
        for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
            let verb = line.split_whitespace().next().unwrap();
            if verb != "help" {
                below(env, &[group, &[verb]].concat(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    below(&Env::new(), &[], &mut found);
    assert!(found.len() > 30, "only {found:?}");
    found
}

/// A temporary folder, removed at the end.
pub(crate) struct Env {
    folder: tempfile::TempDir,
}

impl Drop for Env {
    /// A user who is not root cannot remove what is in a directory that may not be written to, as a store's may not.
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root() {
            return;
        }
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            drop(std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)));
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(entries.filter(is_folder).map(|entry| entry.path()));
        }
    }
}

impl Env {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file with its parent folders, and gives back its path.
    pub(crate) fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// windlass with these arguments, in the folder.
    pub(crate) fn windlass<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// windlass with `host` at [`FIXED`], so that no path in the image depends on where the test runs. `wrap` is put
    /// before it, like `setpriv …`.
    pub(crate) fn windlass_at(&self, host: &Path, wrap: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            // A user may mount in a namespace of users of its own.
            command.arg("--map-root-user");
        }
        let bind = format!("mount --bind \"$1\" {FIXED} && cd {FIXED} && shift && exec \"$@\"");
        command.args(["--mount", "sh", "-c", &bind, "sh"]).arg(host).args(wrap).arg(self.program()).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    /// A copy of windlass that any user can reach, whatever the folder of the build is.
    pub(crate) fn program(&self) -> PathBuf {
        let copy = self.path(".windlass");
        if !copy.exists() {
            std::fs::set_permissions(self.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::copy(env!("CARGO_BIN_EXE_windlass"), &copy).unwrap();
        }
        copy
    }

    /// A text with the folder's own name as `$T`.
    pub(crate) fn scrub(&self, text: &str) -> String {
        text.replace(self.folder.path().to_str().unwrap(), "$T")
    }

    /// Every path below the folder.
    pub(crate) fn tree(&self) -> Vec<PathBuf> {
        fn list(folder: &Path, paths: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                paths.push(entry.path());
                if entry.file_type().unwrap().is_dir() {
                    list(&entry.path(), paths);
                }
            }
        }
        let mut paths = Vec::new();
        list(self.folder.path(), &mut paths);
        paths.sort();
        paths
    }

    /// The exit code and the sentence of a run that must fail, print nothing else and leave nothing.
    pub(crate) fn refused(&self, command: &mut Command) -> (i32, String) {
        let before = self.tree();
        let output = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((stdout.as_str(), self.tree()), ("", before), "{stderr}");
        let sentence = stderr.strip_prefix("windlass: ").and_then(|rest| rest.strip_suffix('\n'));
        let sentence = sentence.unwrap_or_else(|| panic!("not one sentence: {stderr}"));
        assert!(!sentence.contains('\n'), "not one sentence: {stderr}");
        (output.status.code().unwrap_or(-1), self.scrub(sentence))
    }

    /// A new file system, mounted at this name.
    pub(crate) fn mount(&self, name: &str, kind: &str, bytes: u64) -> Mount {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        if kind == "tmpfs" {
            mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]);
        } else {
            let image = self.write(format!("{name}.{kind}"), "");
            std::fs::File::options().write(true).open(&image).unwrap().set_len(bytes).unwrap();
            run_ok(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
            mount.args(["-o", "loop"]).arg(image);
        }
        run_ok(mount.arg(&path));
        Mount(path)
    }

    /// The standard output of a run that must end well.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        run_ok(&mut self.windlass(arguments))
    }

    /// The exit code and standard error of a run that must not.
    pub(crate) fn fails<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> (i32, String) {
        let output = self.windlass(arguments).output().unwrap();
        assert!(!output.status.success(), "expected a failure, got: {}", String::from_utf8_lossy(&output.stdout));
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A Podman of its own with a linked store, and a Nix store that it links from, all in one folder.
pub(crate) struct LinkedPodman {
    pub(crate) env: Env,
    variables: Vec<(String, String)>,
}

/// Makes one; what is in `store/` is what [`LinkedPodman::store_file`] puts there.
pub(crate) fn linked_podman() -> LinkedPodman {
    let env = Env::new();
    let parts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts.sh");
    let settings = run_ok(Command::new("bash").arg(parts).arg("podman").arg(env.path("podman")));
    let variable = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
        (name.to_owned(), value.to_owned())
    };
    let mut variables: Vec<_> = settings.lines().map(variable).collect();
    windlass::internals::podman::linked::LinkedStore::create(&env.path("linked")).unwrap();
    let conf = env.path("podman/storage.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    let stores = format!("[storage.options]\nadditionalimagestores = [{:?}]\n", env.path("linked"));
    std::fs::write(&conf, text + &stores).unwrap();
    for (name, folder) in [("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state")] {
        variables.push((name.to_owned(), env.path(folder).display().to_string()));
    }
    std::fs::create_dir_all(env.path("state/gcroots/auto")).unwrap();
    LinkedPodman { env, variables }
}

impl LinkedPodman {
    /// A command of this Podman, or windlass for it.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = if program == "windlass" { self.env.windlass(arguments) } else { Command::new(program) };
        if program != "windlass" {
            command.args(arguments);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The exit code, and what was printed on both sides.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> (i32, String) {
        let output = self.command(program, arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), self.env.scrub(&String::from_utf8_lossy(&text)))
    }

    /// What a run printed that must end well.
    pub(crate) fn ok(&self, program: &str, arguments: &[&str]) -> String {
        self.env.scrub(&run_ok(&mut self.command(program, arguments)))
    }

    /// A file in a store path of this name, as Nix would have put it there: not writable, modification time 1.
    pub(crate) fn store_file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.env.path("store").join(base_name(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        path
    }

    /// Image `app` over a library, with the model `tiny`, as a lean stack `stack`: 2 images, 3 store paths.
    pub(crate) fn stack(&self) {
        let store = self.env.path("store").display().to_string();
        let files = [("app-1.0", 9000), ("lib-3", 70_000), ("tiny.gguf", 3_000_000)];
        for (name, size) in files {
            self.store_file(name, &vec![b'x'; size]);
        }
        let paths: [(&str, &[&str]); 3] = [("app-1.0", &["lib-3"]), ("lib-3", &[]), ("tiny.gguf", &[])];
        self.env.write("closure.json", closure(&store, &self.env.path("store"), &paths));
        let path = |name: &str| format!("{store}/{}", base_name(name));
        let spec = serde_json::json!({ "kind": "stack", "name": "both", "images": [{
            "name": "app", "storeDir": store, "config": { "Cmd": [path("app-1.0")] },
            "models": [{ "spec": { "name": "tiny", "storeDir": store, "files": { "tiny.gguf": path("tiny.gguf") } } }],
        }] });
        self.env.write("stack.json", spec.to_string());
        self.ok("windlass", &["build", "stack.json", "--closure", "closure.json", "--output", "stack"]);
    }
}

impl Drop for LinkedPodman {
    fn drop(&mut self) {
        drop(self.command("podman", &["rm", "--force", "--all", "--time", "0"]).output());
        drop(Command::new("umount").arg("--lazy").arg(self.env.path("podman/root/overlay")).output());
    }
}

/// Where [`Env::windlass_at`] puts its folder: a directory that every Linux has, and that nothing here needs.
pub(crate) const FIXED: &str = "/dev/shm";

/// A mounted file system; dropped, it is gone.
pub(crate) struct Mount(pub(crate) PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

/// `<32 characters>-<name>`, the same for the same name.
pub(crate) fn base_name(name: &str) -> String {
    let digest = windlass::internals::oci::digest::Digest::of(name.as_bytes());
    format!("{}-{name}", windlass::internals::nix::store_path::nixbase32::encode(&digest.as_bytes()[..20]))
}

/// What `nix path-info --json --recursive` would say of these store paths in `host`, each with its references.
pub(crate) fn closure(store: &str, host: &Path, paths: &[(&str, &[&str])]) -> String {
    let entry = |(name, references): &(&str, &[&str])| {
        let (hash, size) = windlass::internals::nix::nar::nar_hash(&host.join(base_name(name))).unwrap();
        let references: Vec<String> = references.iter().map(|name| format!("{store}/{}", base_name(name))).collect();
        let info = serde_json::json!({ "narHash": hash.to_string(), "narSize": size, "references": references });
        (format!("{store}/{}", base_name(name)), info)
    };
    serde_json::Value::Object(paths.iter().map(entry).collect()).to_string()
}

/// Runs a command that must end well; its standard output.
pub(crate) fn run_ok(command: &mut Command) -> String {
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `./dev setup` installs it"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Waits until no Podman with this `storage.conf` is at work. One that a killed windlass had started goes on by itself: it may
/// still take back an image that it could not finish, and Podman lists images and reads them one by one, so that another
/// Podman fails meanwhile (4.3 to 6.0).
pub(crate) fn wait_for_podman(conf: &Path) {
    let ours = format!("CONTAINERS_STORAGE_CONF={}", conf.display());
    let is_ours = |process: &std::fs::DirEntry| {
        let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
        // What watches a container runs as long as that does.
        let environment = if read("comm") == b"conmon\n" { Vec::new() } else { read("environ") };
        environment.split(|byte| *byte == 0).any(|variable| variable == ours.as_bytes())
    };
    let end = Instant::now() + Duration::from_secs(120);
    while std::fs::read_dir("/proc").unwrap().any(|process| is_ours(&process.unwrap())) {
        assert!(Instant::now() < end, "a Podman with {} does not end", conf.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What bash offers where this line ends, with these variables.
pub(crate) fn completions(env: &Env, variables: &[(String, String)], line: &str) -> Vec<String> {
    let bin = env.path(".completing");
    if !bin.exists() {
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_windlass"), bin.join("windlass")).unwrap();
        env.write(".completing/script", env.ok(["completions", "bash"]));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let script = format!(
        "source .completing/script; COMP_WORDS=({line}); COMP_CWORD={}; _clap_complete_windlass windlass {:?} x; printf '%s\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1,
        words.last().unwrap()
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(env.path("")).env_clear().envs(variables.iter().cloned()).env("PATH", path);
    run_ok(&mut bash).lines().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}
