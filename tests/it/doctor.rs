//! `windlass doctor` against the real Podman: whether they agree on where things are, and whether --fix mends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::env::{Env, run_ok};
use crate::nix::root;

/// A Podman of its own, which no other one shares anything with.
struct Host {
    env: Env,
    variables: Vec<(String, String)>,
}

impl Host {
    fn new() -> Self {
        let env = Env::new();
        let parts = root().join("tests/parts.sh");
        let settings = run_ok(Command::new("bash").arg(parts).arg("podman").arg(env.path("podman")));
        let variable = |line: &str| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        Self { variables: settings.lines().map(variable).collect(), env }
    }

    fn conf(&self) -> PathBuf {
        self.env.path("podman/storage.conf")
    }

    fn store(&self) -> PathBuf {
        self.env.path("linked")
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("podman");
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(self.variables.iter().cloned()).output().unwrap()
    }

    /// The exit code and the lines of `windlass doctor`.
    fn doctor(&self, arguments: &[&str]) -> (i32, String) {
        let store = self.store();
        let mut command = self.env.windlass(["doctor", "--storage-dir", store.to_str().unwrap()]);
        let output = command.args(arguments).envs(self.variables.iter().cloned()).output().unwrap();
        let text = self.env.scrub(&String::from_utf8(output.stdout).unwrap());
        let quiet = arguments.contains(&"--make-store");
        assert!(quiet || !text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    }

    /// Adds an additional image store to storage.conf.
    fn name(&self, store: &Path) {
        let text = fs::read_to_string(self.conf()).unwrap();
        let line = format!("\n[storage.options]\nadditionalimagestores = [\n  \"{}\", # by hand\n]\n", store.display());
        fs::write(self.conf(), text + &line).unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.env.path("podman/root/overlay")).output());
    }
}

fn lines<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn make_store_makes_the_store_and_touches_nothing_else() {
    let host = Host::new();
    let text = fs::read_to_string(host.conf()).unwrap();
    assert_eq!(host.doctor(&["--make-store"]), (0, "made the linked store $T/linked\n".to_owned()));
    assert_eq!(host.doctor(&["--make-store"]), (0, String::new()), "nothing to do, nothing to say");
    assert_eq!(fs::read_to_string(host.conf()).unwrap(), text);
    // With that, Podman works for a user who names it.
    fs::write(host.conf(), text + &format!("[storage.options]\nadditionalimagestores = [{:?}]\n", host.store()))
        .unwrap();
    assert!(host.podman(&["images"]).status.success());
    fs::remove_file(host.store().join("overlay-layers/layers.lock")).unwrap();
    let (code, said) = host.doctor(&["--make-store"]);
    assert_eq!((code, said.as_str()), (0, "mended the linked store: $T/linked/overlay-layers/layers.lock\n"));

    let somebodys = host.env.write("other/file", "");
    let other = somebodys.parent().unwrap();
    let mut command = host.env.windlass(["doctor", "--make-store", "--storage-dir", other.to_str().unwrap()]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("is not a linked store, and not empty"), "{said}");
    assert_eq!(fs::read_dir(other).unwrap().count(), 1);
}

#[test]
fn fix_makes_the_store_names_it_and_then_has_nothing_to_do() {
    let host = Host::new();
    let text = fs::read_to_string(host.conf()).unwrap().replace("[storage]", "# mine\n[storage] # all of it");
    fs::write(host.conf(), &text).unwrap();
    fs::set_permissions(host.conf(), PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(host.conf(), Some(12345), Some(12345)).unwrap();

    let (code, said) = host.doctor(&[]);
    let expected = [
        "problem  linked store: $T/linked is missing",
        "problem  storage.conf: Podman does not read $T/linked: no file names it",
    ];
    assert_eq!((code, lines(&said, "problem")), (7, expected.to_vec()), "{said}");
    assert!(!host.store().exists() && fs::read_to_string(host.conf()).unwrap() == text);

    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!(code, 0, "{said}");
    let expected = ["fixed    made the store $T/linked", "fixed    $T/podman/storage.conf names $T/linked"];
    assert_eq!(lines(&said, "fixed"), expected);
    let new = fs::read_to_string(host.conf()).unwrap();
    let added = format!("\n[storage.options]\nadditionalimagestores = [\"{}\"]\n", host.store().display());
    assert_eq!(new, text + &added);
    let metadata = fs::metadata(host.conf()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 12345);
    assert!(host.podman(&["images"]).status.success());

    let tree = host.env.tree();
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!((code, lines(&said, "fixed")), (0, vec!["fixed    nothing: there is nothing to do"]));
    assert_eq!((fs::read_to_string(host.conf()).unwrap(), host.env.tree()), (new, tree));
    let last = said.lines().last().unwrap();
    assert!(last.contains(" checks: ") && last.ends_with(" 0 problems"), "{last}");
}

#[test]
fn what_breaks_every_podman_command_is_found_and_mended() {
    let host = Host::new();
    host.name(&host.store());
    assert!(!host.podman(&["images"]).status.success(), "a store that is missing");
    let (code, said) = host.doctor(&[]);
    let problems = lines(&said, "problem");
    assert_eq!((code, problems[0]), (7, "problem  linked store: $T/linked is missing"));
    assert!(problems[1].starts_with("problem  podman info: podman info fails, and other commands with it: "), "{said}");
    assert_eq!(host.doctor(&["--fix"]).0, 0);
    assert!(host.podman(&["images"]).status.success());

    // Podman would make the lock as root; another user, or a read-only file system, would not.
    let lock = host.store().join("overlay-images/images.lock");
    fs::remove_file(&lock).unwrap();
    let (code, said) = host.doctor(&[]);
    let missing = "problem  linked store: $T/linked/overlay-images/images.lock is missing";
    assert_eq!((code, lines(&said, "problem")), (7, vec![missing]));
    drop(fs::remove_file(&lock)); // That Podman was asked has made it.
    let (code, said) = host.doctor(&["--fix"]);
    let mended = "fixed    mended the store: $T/linked/overlay-images/images.lock";
    assert_eq!((code, lines(&said, "fixed")), (0, vec![mended]));
    assert!(lock.exists());

    // Torn records: named, and not thrown away.
    let records = host.store().join("overlay-layers/layers.json");
    fs::write(&records, "[{\"id\": \"a").unwrap();
    assert!(!host.podman(&["run", "--rm", "x"]).status.success());
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!(code, 7);
    assert!(said.contains("problem  linked store: $T/linked/overlay-layers/layers.json is not whole JSON: "), "{said}");
    assert_eq!(fs::read_to_string(&records).unwrap(), "[{\"id\": \"a");
}

#[test]
fn a_store_of_somebody_else_is_named_and_left_alone() {
    let host = Host::new();
    host.name(&host.env.path("other"));
    let before = fs::read_to_string(host.conf()).unwrap();
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!((code, lines(&said, "fixed")), (7, vec!["fixed    nothing: there is nothing to do"]));
    let sentence = "can't stat imageStore dir $T/other: stat $T/other: no such file or directory";
    assert!(lines(&said, "problem").iter().any(|line| line.ends_with(sentence)), "{said}");
    let fix = "`windlass doctor --fix --storage-dir $T/other` makes it, or take it out of $T/podman/storage.conf";
    assert!(said.contains(fix), "{said}");
    assert_eq!((fs::read_to_string(host.conf()).unwrap(), host.env.path("other").exists()), (before, false));

    // Once that is done, so is the rest.
    fs::create_dir(host.env.path("other")).unwrap();
    let (code, said) = host.doctor(&["--fix"]);
    let fixed = ["fixed    made the store $T/linked", "fixed    $T/podman/storage.conf names $T/linked"];
    assert_eq!((code, lines(&said, "fixed")), (0, fixed.to_vec()), "{said}");
    let text = host.env.scrub(&fs::read_to_string(host.conf()).unwrap());
    assert!(text.ends_with("= [\n  \"$T/other\",\n  \"$T/linked\", # by hand\n]\n"), "{text}");
    fs::write(host.env.path("other/overlay-images/images.json"), "[{").unwrap();
    let (_, said) = host.doctor(&[]);
    assert!(said.contains("problem  image store: $T/other/overlay-images/images.json is not whole JSON"), "{said}");
}

#[test]
fn a_symbolic_link_is_not_touched_but_explained() {
    let host = Host::new();
    let real = host.env.path("podman/real.conf");
    fs::rename(host.conf(), &real).unwrap();
    std::os::unix::fs::symlink("real.conf", host.conf()).unwrap();
    let before = fs::read_to_string(&real).unwrap();
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!((code, lines(&said, "fixed")), (7, vec!["fixed    made the store $T/linked"]));
    assert!(said.contains("$T/podman/storage.conf is a symbolic link: in what it is made from, add \"$T/linked\""));
    assert!(host.conf().is_symlink() && fs::read_to_string(&real).unwrap() == before);
}

#[test]
fn vfs_and_a_full_directory_are_problems_that_fix_leaves() {
    let mut host = Host::new();
    let text = fs::read_to_string(host.conf()).unwrap();
    fs::write(host.conf(), text.replace("overlay", "vfs")).unwrap();
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!((code, host.store().exists()), (7, false));
    assert!(said.contains("problem  driver: the storage driver is vfs, and the linked store needs overlay"), "{said}");
    assert!(said.contains("set driver = \"overlay\" under [storage] in storage.conf"), "{said}");
    assert!(!said.contains("system reset"), "it takes all volumes away: {said}");

    // Podman's database remembers what it was first used with.
    fs::write(host.conf(), &text).unwrap();
    let (_, said) = host.doctor(&[]);
    assert!(said.contains("problem  driver: the storage driver is vfs"), "{said}");
    assert!(said.contains("Podman keeps to the driver that it was first used with there"), "{said}");

    host = Host::new();
    host.env.write("linked/precious", "x");
    let (code, said) = host.doctor(&["--fix"]);
    assert_eq!(code, 7);
    assert!(said.contains("problem  linked store: use $T/linked: it is not a linked store, and not empty"), "{said}");
    assert_eq!(fs::read_dir(host.store()).unwrap().count(), 1);

    let (code, said) = host.doctor(&["--root", host.env.path("elsewhere").to_str().unwrap()]);
    assert_eq!(code, 7);
    assert!(said.contains("note     storage.conf: with --root Podman reads no additional image store"), "{said}");
}

/// What Podman and windlass each say of the places, run alike in a mount namespace of their own, as `user`.
fn places(env: &Env, prepare: &str, user: &[&str], arguments: &str) -> [Value; 2] {
    let program = env.program();
    let script = format!(
        "set -e
        for dir in /var/lib/containers /run/containers; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
        if [ -d /run/user ]; then mount -t tmpfs tmpfs /run/user; fi
        {prepare}
        \"$@\" podman {arguments} info --format json >$T/podman.json
        \"$@\" {} doctor --json {arguments} >$T/doctor.json || test $? = 7",
        program.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &script, "bash"]);
    command.args(["env"]).args(user).current_dir("/").env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("T", env.path(""));
    run_ok(&mut command);
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(env.path(name)).unwrap()).unwrap();
    let (podman, ours) = (read("podman.json"), read("doctor.json")["places"].clone());
    let store = &podman["store"];
    let option =
        |(name, value): (&String, &Value)| name.ends_with("imagestore").then(|| value.as_str().unwrap().to_owned());
    let stores: Vec<_> = store["graphOptions"].as_object().unwrap().iter().filter_map(option).collect();
    let theirs = serde_json::json!({
        "graphRoot": store["graphRoot"], "runRoot": store["runRoot"], "driver": store["graphDriverName"],
        "imageStores": stores, "rootless": podman["host"]["security"]["rootless"], "conf": store["configFile"],
        "temporary": store["imageCopyTmpDir"], "separateStore": Value::Null, "driverOptions": ours["driverOptions"],
    });
    [theirs, ours]
}

#[test]
fn places_are_those_of_podman() {
    const CONF: &str = "[storage]\ndriver = \"overlay\"\ngraphroot = \"$T/$N/root\"\nrunroot = \"$T/$N/run\"\n\
                        [storage.options]\nadditionalimagestores = [\"$T/extra\"]\n";
    let configurations: [(&str, &str, &[&str], &str); 9] = [
        ("nothing", "", &[], ""),
        ("ignored", "", &["STORAGE_DRIVER=vfs", "STORAGE_OPTS=overlay.imagestore=/x"], ""),
        ("etc", "mount -t tmpfs tmpfs /etc/containers; cp $T/etc.conf /etc/containers/storage.conf", &[], ""),
        ("variable", "", &["CONTAINERS_STORAGE_CONF=$T/variable.conf"], ""),
        ("root", "", &["CONTAINERS_STORAGE_CONF=$T/root.conf"], "--root $T/given --runroot $T/g"),
        ("vfs", "", &["CONTAINERS_STORAGE_CONF=$T/vfs.conf", "STORAGE_DRIVER=vfs"], ""),
        (
            "options",
            "",
            &["CONTAINERS_STORAGE_CONF=$T/options.conf", "STORAGE_OPTS=.additionalimagestore=$T/extra"],
            "",
        ),
        (
            "config",
            "mkdir -p $T/x/containers; cp $T/config.conf $T/x/containers/storage.conf",
            &["XDG_CONFIG_HOME=$T/x"],
            "",
        ),
        ("unset", "sed -i /driver/d $T/unset.conf", &["CONTAINERS_STORAGE_CONF=$T/unset.conf"], ""),
    ];
    for (name, prepare, variables, arguments) in configurations {
        let env = Env::new();
        let folder = env.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        fs::create_dir(env.path("extra")).unwrap();
        env.write(format!("{name}.conf"), CONF.replace("$T", &folder).replace("$N", name));
        let filled: Vec<String> = variables.iter().map(|variable| variable.replace("$T", &folder)).collect();
        let [theirs, ours] = places(&env, prepare, &filled.iter().map(String::as_str).collect::<Vec<_>>(), arguments);
        assert_eq!(ours, theirs, "{name}");
        drop(Command::new("umount").arg("--lazy").arg(env.path(format!("{name}/root/overlay"))).output());
    }
}

#[test]
fn places_of_a_rootless_user_are_those_of_podman() {
    const USER: &str = "
        chmod 755 $T; mkdir -p $T/home/.config/containers $T/rt $T/extra
        cp /etc/passwd $T/passwd; echo w:x:12345:12345::$T/home:/bin/sh >>$T/passwd; mount --bind $T/passwd /etc/passwd
        cp /etc/group $T/group; echo w:x:12345: >>$T/group; mount --bind $T/group /etc/group
        echo w:200000:65536 >$T/ids; mount --bind $T/ids /etc/subuid; mount --bind $T/ids /etc/subgid
        mount -t tmpfs tmpfs /etc/containers
        printf '[storage]\\ndriver = \"overlay\"\\n' >$T/driver
        printf '[storage.options]\\nadditionalimagestores = [\"%s/extra\"]\\n' ${T%/} >$T/stores
        printf 'graphroot = \"/none\"\\nrunroot = \"/none\"\\n' >$T/roots
        chmod 700 $T/rt; chmod 777 $T/extra
        ";
    for (name, conf) in [
        ("the system's driver, and not its stores", "cat $T/driver $T/roots $T/stores >/etc/containers/storage.conf"),
        (
            "the system's path for them",
            "(cat $T/driver; echo 'rootless_storage_path = \"$HOME/r$UID\"'; cat $T/roots) >/etc/containers/storage.conf",
        ),
        ("their own file", "cat $T/driver $T/stores >$T/home/.config/containers/storage.conf"),
    ] {
        let env = Env::new();
        let prepare = format!("{USER}{conf}; chown -R 12345:12345 $T/home $T/rt");
        let folder = env.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        let (home, runtime) = (format!("HOME={folder}/home"), format!("XDG_RUNTIME_DIR={folder}/rt"));
        let user = [&home, &runtime, "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"];
        let [theirs, ours] = places(&env, &prepare, &user, "");
        assert_eq!(ours, theirs, "{name}");
        assert_eq!(ours["rootless"], true);
        drop(
            Command::new("umount").arg("--lazy").arg(env.path("home/.local/share/containers/storage/overlay")).output(),
        );
    }
}

/// Root's file starts as a copy of the distribution's, a rootless user's names what was chosen for them; and on NixOS
/// the configuration is for the user to write.
#[test]
fn a_file_that_is_not_there_is_written_as_podman_has_it() {
    let run = |prepare: &str, who: &str| {
        let env = Env::new();
        let program = env.program();
        let script = format!(
            "set -e
            for dir in /var/lib/containers /run/containers /etc/containers; do mkdir -p $dir; mount -t tmpfs t $dir; done
            mkdir $T/etc $T/work $T/home $T/rt; chmod 700 $T/rt; chmod 755 $T
            mount -t tmpfs t $T/etc; mkdir $T/etc/up $T/etc/work
            mount -t overlay -o lowerdir=/etc,upperdir=$T/etc/up,workdir=$T/etc/work e /etc
            mkdir -p /etc/containers
            {prepare}
            chown 12345:12345 $T/home $T/rt
            {who} env HOME=$T/home XDG_RUNTIME_DIR=$T/rt {} doctor --fix --storage-dir $T/home/store || echo code $?
            for file in /etc/containers/storage.conf $T/home/.config/containers/storage.conf; do
              if [ -e $file ]; then cat $file; fi
            done",
            program.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &script]);
        let folder = env.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        let text = run_ok(
            command.current_dir("/").env_clear().env("T", &folder).env("PATH", std::env::var_os("PATH").unwrap()),
        );
        env.scrub(&text)
    };
    const STORE: &str = "[storage.options]\nadditionalimagestores = [\"$T/home/store\"]\n";
    const PLACES: &str = "graphroot = \"/var/lib/containers/storage\"\nrunroot = \"/run/containers/storage\"\n";

    let nothing = run("", "");
    assert!(nothing.ends_with(&format!("0 problems\n[storage]\ndriver = \"overlay\"\n{PLACES}\n{STORE}")), "{nothing}");

    let share = "cp -r /usr/share/containers $T/etc/share; mount --bind $T/etc/share /usr/share/containers
        printf '# theirs\\n[storage]\\ndriver = \"overlay\"\\ngraphroot = \"/var/lib/containers/g\"\\nrunroot = \"/run/containers/r\"\\n' \
        >/usr/share/containers/storage.conf";
    let copied = run(share, "");
    let theirs = "# theirs\n[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/containers/g\"\nrunroot = \"/run/containers/r\"\n";
    assert!(copied.ends_with(&format!("0 problems\n{theirs}\n{STORE}")), "{copied}");

    let nixos = run("touch /etc/NIXOS", "");
    assert_eq!(lines(&nixos, "fixed"), ["fixed    made the store $T/home/store"]);
    let option =
        "set virtualisation.containers.storage.settings.storage.options.additionalimagestores = [ \"$T/home/store\" ];";
    assert!(nixos.contains(option) && nixos.ends_with("code 7\n"), "{nixos}");

    let rootless = run(
        "echo w:x:12345:12345::$T/home:/bin/sh >>/etc/passwd; echo w:x:12345: >>/etc/group
        echo w:200000:65536 >/etc/subuid; echo w:200000:65536 >/etc/subgid",
        "setpriv --reuid=12345 --regid=12345 --clear-groups",
    );
    let own = "[storage]\ndriver = \"overlay\"\n";
    assert!(rootless.ends_with(&format!("0 problems\n{own}\n{STORE}")), "{rootless}");
}

#[test]
fn root_leaves_nothing_in_a_users_home_and_what_it_left_there_is_named() {
    let env = Env::new();
    let program = env.program();
    let home = env.path("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(12345), Some(12345)).unwrap();
    env.write("images.lock.json", r#"{ "version": 1, "images": {} }"#);
    // As sudo leaves HOME where it is told to.
    for verb in [&["upstream", "fetch"][..], &["model", "fetch"], &["model", "add", "hf:o/r/m.gguf"]] {
        env.write("models.lock.json", r#"{ "version": 1, "models": {} }"#);
        let said = env.windlass(verb).env("HOME", &home).output().unwrap();
        let sentence = env.scrub(&String::from_utf8(said.stderr).unwrap());
        assert!(
            said.status.code() == Some(7) && sentence.contains("HOME is $T/home, which belongs to user 12345"),
            "{sentence}"
        );
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "{verb:?}");
    }
    // And of a root that was let in before.
    fs::create_dir_all(home.join(".cache/windlass/blobs")).unwrap();
    let mut doctor = Command::new("setpriv");
    doctor.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(&program).arg("doctor");
    doctor.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &home).current_dir("/");
    let said = env.scrub(&String::from_utf8(doctor.output().unwrap().stdout).unwrap());
    let row =
        said.lines().position(|line| line.contains("$T/home/.cache/windlass belongs to user 0, not to user 12345"));
    let rows: Vec<&str> = said.lines().skip(row.unwrap_or_else(|| panic!("{said}"))).take(2).collect();
    assert!(rows.concat().contains("sudo chown -R 12345: $T/home/.cache/windlass"), "{rows:?}");
}
