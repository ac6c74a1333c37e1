//! A real Podman with a storage of its own, and with a linked store where a test wants one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use windlass::internals::podman::linked::LinkedStore;
use windlass::internals::podman::storage::client::PodmanClient;
use windlass::internals::podman::storage::places::{Overrides, Places};

use crate::env::{Env, base_name, run_ok, wait_for_podman};
use crate::nix::root;

/// A Podman with a storage of its own.
pub(crate) struct Podman {
    pub(crate) env: Env,
    variables: Vec<(String, String)>,
    home: Option<tempfile::TempDir>,
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The last line of a run that ended well.
    pub(crate) fn last(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        untimed(self.stdout.lines().last().unwrap_or_default())
    }
}

/// The last line of a load without how long it took, which it must say.
pub(crate) fn untimed(line: &str) -> &str {
    let Some((line, time)) = line.split_once("; took ") else { return line };
    assert!(time.strip_suffix(" s").is_some_and(|seconds| seconds.parse::<f64>().is_ok()), "{line}; took {time}");
    line
}

impl Podman {
    pub(crate) fn new() -> Self {
        let env = Env::new();
        let settings =
            run_ok(Command::new("bash").arg(root().join("tests/parts.sh")).arg("podman").arg(env.path("podman")));
        let variable = |line: &str| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let variables = settings.lines().map(variable).collect();
        Self { env, variables, home: None }
    }

    /// With a linked store on the file system of the Nix store, as `windlass doctor --fix` sets it up.
    pub(crate) fn linked() -> Self {
        let mut podman = Self::new();
        let home = tempfile::Builder::new().prefix("windlass-test-").tempdir_in("/nix/var").unwrap();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        podman.home = Some(home);
        podman.link_into(&podman.home("storage"));
        podman
    }

    /// With a linked store, and with a Nix store of its own beside it.
    pub(crate) fn with_nix() -> Self {
        let mut podman = Self::linked();
        for (name, folder) in [("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log")] {
            let path = podman.home(folder);
            fs::create_dir(&path).unwrap();
            podman.variables.push((name.to_owned(), path.to_str().unwrap().to_owned()));
        }
        fs::create_dir_all(podman.home("state/gcroots/auto")).unwrap();
        podman
    }

    /// Sets up the linked store at `store`.
    pub(crate) fn link_into(&self, store: &Path) {
        let said = self.said(&["doctor", "--fix", "--storage-dir", store.to_str().unwrap()]);
        assert!(LinkedStore::is_at(store), "{said:?}");
    }

    /// A path beside the linked store.
    pub(crate) fn home(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.as_ref().unwrap().path().join(name)
    }

    pub(crate) fn store(&self) -> LinkedStore {
        LinkedStore::open(&self.home("storage")).unwrap()
    }

    /// windlass for this Podman.
    pub(crate) fn windlass(&self, arguments: &[&str]) -> Command {
        let mut command = self.env.windlass(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The same run of windlass, traced by strace with these options, in the same environment.
    pub(crate) fn traced(&self, log: &Path, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(log).args(options).arg(env!("CARGO_BIN_EXE_windlass")).args(arguments);
        command.current_dir(self.env.path("")).env_clear();
        let own = self.windlass(arguments);
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    pub(crate) fn said(&self, arguments: &[&str]) -> Said {
        Said::of(&self.windlass(arguments).output().unwrap())
    }

    /// `windlass load PATH OPTIONS`
    pub(crate) fn load(&self, path: &Path, options: &[&str]) -> Said {
        self.said(&[&["load", path.to_str().unwrap()], options].concat())
    }

    /// A file in a path of the own store, as Nix leaves it.
    pub(crate) fn add(&self, name: &str, file: &str, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.home("store").join(base_name(name));
        let file = path.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let second = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::open(&file).unwrap().set_modified(second).unwrap();
        path
    }

    /// A store path with a shell, `cat` and `sleep`, and what they need to run.
    pub(crate) fn tools(&self) -> PathBuf {
        let programs = ["/bin/sh", "/bin/cat", "/bin/sleep"];
        let libraries = run_ok(Command::new("ldd").args(programs));
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
        for file in libraries.chain(programs) {
            self.add("tools", &file[1..], fs::read(file).unwrap(), 0o555);
        }
        self.home("store").join(base_name("tools"))
    }

    /// A model of one store path, for [`Podman::image`].
    pub(crate) fn model(&self, name: &str, place: &str, source: &Path) -> Value {
        json!({ "spec": { "name": name, "storeDir": self.home("store"), "mountPath": place, "source": source } })
    }

    /// An image `NAME:1` of these models and texts, built.
    pub(crate) fn image(&self, name: &str, models: &[Value], texts: &[(&str, &str)]) -> PathBuf {
        let texts: Value = texts.iter().map(|(path, text)| ((*path).to_owned(), Value::from(*text))).collect();
        let content = json!({ "texts": texts });
        let spec = json!({ "kind": "image", "name": name, "tag": "1", "storeDir": self.home("store"),
            "models": models, "content": content, "config": { "Cmd": ["/bin/sleep", "1000"] } });
        self.build(&format!("built-{name}"), &spec)
    }

    /// An image that runs: the tools and this text.
    pub(crate) fn app(&self, name: &str, text: &str) -> PathBuf {
        self.image(name, &[self.model("tools", "/", &self.tools())], &[("/text", text)])
    }

    pub(crate) fn build(&self, output: &str, spec: &Value) -> PathBuf {
        let (file, output) = (self.env.write(format!("{output}.json"), spec.to_string()), self.env.path(output));
        drop(fs::remove_dir_all(&output));
        self.env.ok(["build", file.to_str().unwrap(), "--output", output.to_str().unwrap()]);
        output
    }

    /// Runs a container to its end; what it printed.
    pub(crate) fn sh(&self, image: &str, script: &str) -> String {
        self.run(&["run", "--rm", "--pull=never", "--network=none", image, "/bin/sh", "-c", script])
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run_ok(self.command("podman").args(arguments))
    }

    /// As [`wait_for_podman`] says; containers must have ended.
    pub(crate) fn wait_for_podman(&self) {
        wait_for_podman(&self.env.path("podman/storage.conf"));
    }

    /// What `windlass` would find out about it.
    pub(crate) fn places(&self) -> Places {
        Places {
            graph_root: self.env.path("podman/root"),
            run_root: self.env.path("podman/run"),
            driver: "overlay".to_owned(),
            image_stores: self.home.iter().map(|home| home.path().join("storage")).collect(),
            separate_store: None,
            driver_options: std::collections::BTreeMap::new(),
            temporary: None,
            conf: Some(self.env.path("podman/storage.conf")),
            rootless: false,
        }
    }

    pub(crate) fn engine(&self) -> PodmanClient {
        self.engine_at(&Overrides::default(), &self.places())
    }

    /// With places given by hand.
    pub(crate) fn engine_at(&self, given: &Overrides, places: &Places) -> PodmanClient {
        let engine = PodmanClient::new(given, places);
        self.variables.iter().fold(engine, |engine, (name, value)| engine.with_variable(name, value))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(self.command("podman").args(["rm", "--force", "--all", "--time", "0"]).output());
        // Two Podmans that start at once mount it twice.
        let overlay = self.env.path("podman/root/overlay");
        let unmount = || Command::new("umount").arg("--lazy").arg(&overlay).output();
        while unmount().is_ok_and(|output| output.status.success()) {}
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a script prints in which `as` runs something as a user with an own Podman, who has the linked store of `podman`
/// beside it. `$T` is the folder of the test, `$WINDLASS` the program.
pub(crate) fn as_user(podman: &Podman, script: &str) -> String {
    let setup = "set -e
        chmod 755 $T; mkdir -p $T/home/.config/containers $T/rt; chmod 700 $T/rt
        cp /etc/passwd $T/passwd; echo w:x:12345:12345::$T/home:/bin/sh >>$T/passwd; mount --bind $T/passwd /etc/passwd
        cp /etc/group $T/group; echo w:x:12345: >>$T/group; mount --bind $T/group /etc/group
        echo w:200000:65536 >$T/ids; mount --bind $T/ids /etc/subuid; mount --bind $T/ids /etc/subgid
        mount -t tmpfs tmpfs /etc/containers
        printf '[storage]\\ndriver = \"overlay\"\\n[storage.options]\\nadditionalimagestores = [\"%s\"]\\n' $STORE \
            >$T/home/.config/containers/storage.conf
        cp $T/podman/containers.conf $T/home/.config/containers/containers.conf
        sed -i /tmp_dir/d $T/home/.config/containers/containers.conf
        chown -R 12345:12345 $T/home $T/rt; cd /
        as() { setpriv --reuid=12345 --regid=12345 --clear-groups env HOME=$T/home XDG_RUNTIME_DIR=$T/rt \"$@\"; }";
    // As `windlass doctor --share` does it.
    let setup = [setup, "\nchmod 755 $STORE; mount --bind $STORE $STORE; mount -o remount,bind,ro $STORE\n"].concat();
    let teardown = "
        overlay=$T/home/.local/share/containers/storage/overlay
        as podman unshare sh -c 'if mountpoint -q $0; then umount -l $0; fi' $overlay
        umount --lazy $STORE; chmod 700 $STORE";
    let mut command = podman.windlass(&[]);
    let folder = podman.env.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let program = podman.env.program();
    for (name, value) in [("T", Path::new(&folder)), ("STORE", &podman.home("storage")), ("WINDLASS", &program)] {
        command.env(name, value);
    }
    let mut namespace = Command::new("unshare");
    let script = [&setup, script, teardown].concat();
    namespace.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &script]).env_clear();
    namespace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for name in ["CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF", "TMPDIR"] {
        namespace.env_remove(name);
    }
    run_ok(&mut namespace)
}
