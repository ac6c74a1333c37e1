//! Switching models below a running service, on a real Podman: `windlass model`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass::internals::podman::linked::LinkedStore;
use windlass::internals::podman::slots::{Slots, active};

use crate::engine::Podman;
use crate::env::{base_name, run_ok};
use crate::signals::ends;

/// Prints what it serves and stays; `check FILE` fails for a model that begins with "bad".
const SERVER: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void stop(int signal) { _exit(0); }
int main(int count, char **arguments) {
    char text[64] = "";
    int check = count > 2;
    FILE *file = fopen(arguments[count - 1], "r");
    if (!file) return perror(arguments[count - 1]), 1;
    fgets(text, sizeof text, file);
    if (check) return strncmp(text, "bad", 3) == 0;
    signal(SIGTERM, stop);
    printf("%s\n", text);
    fflush(stdout);
    if (strncmp(text, "ends", 4) == 0) return 3;
    for (;;) pause();
}
"#;

/// A Podman with an image of a server, and a generation of models.
struct Host {
    podman: Podman,
}

impl Host {
    fn new(is_linked: bool) -> Self {
        let podman = Podman::new();
        let env = &podman.env;
        env.write("server.c", SERVER);
        let build = "cc -static -O1 -o server server.c && tar -cf server.tar --owner=0 --group=0 server";
        run_ok(Command::new("sh").args(["-c", build]).current_dir(env.path("")));
        podman.run(&["import", env.path("server.tar").to_str().unwrap(), "localhost/server:1"]);
        // As a fresh machine has it: Nix makes `auto` with its first root.
        fs::create_dir_all(env.path("nix/gcroots")).unwrap();
        let host = Self { podman };
        if is_linked {
            let store = LinkedStore::create(&host.path("linked")).unwrap();
            let conf = host.path("podman/storage.conf");
            let options = format!("\n[storage.options]\nadditionalimagestores = [\"{}\"]\n", store.path().display());
            fs::write(&conf, fs::read_to_string(&conf).unwrap() + &options).unwrap();
        }
        let store = host.path("store");
        for name in ["one", "two", "bad", "ends"] {
            host.podman.env.write(store.join(base_name(&format!("{name}.gguf"))), name);
        }
        for (shard, text) in [("s-00001-of-00002.gguf", "split"), ("s-00002-of-00002.gguf", "rest")] {
            host.podman.env.write(store.join(base_name("split")).join(shard), text);
        }
        host.load(&["one", "two", "bad", "ends", "split"]);
        host
    }

    /// Loads a stack of these models.
    fn load(&self, names: &[&str]) -> String {
        let store = self.path("store");
        let model = |name: &&str| {
            let file = if *name == "split" { "split".to_owned() } else { format!("{name}.gguf") };
            json!({ "spec": { "name": name, "source": store.join(base_name(&file)), "storeDir": store } })
        };
        let models: Vec<Value> = names.iter().map(model).collect();
        let spec = json!({ "kind": "stack", "name": "models", "models": models });
        self.podman.env.write("stack.json", spec.to_string());
        // These are no models, which a build warns of.
        run_ok(&mut self.command(&["build", "stack.json", "--output", "stack"]));
        self.ok(&["load", "stack"])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.podman.env.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.podman.windlass(arguments);
        command.env("NIX_STORE_DIR", self.path("store")).env("NIX_STATE_DIR", self.path("nix"));
        command
    }

    /// What a run that must end well prints; where no terminal is, nothing may come on standard error but what a load says of a host
    /// without a linked store, and what to type next.
    fn ok(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        let is_told = |line: &str| line.starts_with("next: podman run ") || line.contains("with a linked store, which");
        let is_quiet = stderr.is_empty() || (arguments[0] == "load" && stderr.lines().all(is_told));
        assert!(status.success() && is_quiet, "{arguments:?}: {stderr}");
        self.podman.env.scrub(&String::from_utf8(stdout).unwrap())
    }

    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        assert!(!status.success() && stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
        let stderr = String::from_utf8(stderr).unwrap();
        let sentence = stderr.strip_prefix("windlass: ").unwrap().trim_end();
        (status.code().unwrap(), self.podman.env.scrub(sentence))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    fn slots(&self) -> PathBuf {
        self.path("podman/root/windlass/models")
    }

    /// Starts the server on what is mounted at /models, with a health check or without.
    fn serve(&self, name: &str, mount: &str, has_check: bool, file: &str) {
        let file = format!("/models/{file}");
        let check = json!(["/server", "check", file]).to_string();
        let mut options = vec!["run", "--detach", "--pull=never", "--network=none", "--name", name];
        if has_check {
            options.extend(["--health-cmd", &check]);
        }
        options.extend(mount.split(' ').chain(["localhost/server:1", "/server", &file]));
        self.podman.run(&options);
    }

    /// What the container served, one line for each time it was started.
    fn served(&self, name: &str) -> Vec<String> {
        let logs = || self.podman.run(&["logs", name]).lines().map(str::to_owned).collect::<Vec<_>>();
        sleep(Duration::from_millis(300));
        logs()
    }

    fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}");
            sleep(Duration::from_millis(50));
        }
    }

    /// The models that a slot needs.
    fn needed(&self) -> Vec<(String, String, bool)> {
        let needed = active(&Slots::of(&self.path("podman/root"))).unwrap();
        needed.into_iter().map(|needed| (needed.slot, needed.entry.name.into(), needed.former)).collect()
    }

    /// Writes a `systemctl` that runs `restart` for the unit and logs what it was asked, and a PATH that has it first.
    fn systemctl(&self, restart: &str) -> String {
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>{0}/asked\ncase \"$*\" in *is-failed*) exit 1;; *LoadState*) cat {0}/known;; *NRestarts*) cat {0}/ends;; \
             *ActiveState*) cat {0}/state;; *reset-failed*) echo 0 >{0}/ends;; *' restart '*|'restart '*) {restart};; esac\n",
            self.path("").display()
        );
        self.podman.env.write("known", "loaded\n");
        self.podman.env.write("ends", "0\n");
        self.podman.env.write("state", "active\n");
        let program = self.podman.env.write("bin/systemctl", script);
        run_ok(Command::new("chmod").arg("+x").arg(&program));
        format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap())
    }
}

/// What was said of a switch, without the time that it took.
fn healthy(switched: &str) -> &str {
    let (told, after) = switched.rsplit_once(", after ").unwrap();
    assert!(after.strip_suffix(" s\n").unwrap().parse::<f64>().unwrap() > 0.0, "{switched}");
    told
}

#[test]
fn a_service_gets_another_model_in_one_restart_and_its_image_stays() {
    let host = Host::new(false);
    let slot = host.slots().join("chat");
    let first = host.ok(&["model", "use", "one", "--slot", "chat"]);
    assert_eq!(
        first,
        "model one is active in slot chat: $T/podman/root/windlass/models/chat; what uses it sees it after a restart\n"
    );
    host.serve("checked", &format!("-v {}/file:/models/model.gguf:ro", slot.display()), true, "model.gguf");
    let image = || host.podman.run(&["inspect", "--format", "{{.Image}} {{.Id}}", "checked"]);
    let before = image();
    let start = Instant::now();
    let switched = host.ok(&["model", "use", "two", "--slot", "chat", "--restart", "checked"]);
    assert!(start.elapsed() < Duration::from_secs(5), "a health check is asked at once: {:?}", start.elapsed());
    assert_eq!(
        healthy(&switched),
        "model two is active in slot chat, instead of one; container checked was restarted once and is healthy"
    );
    assert_eq!(host.served("checked"), ["one", "two"]);
    assert_eq!(image(), before);

    // The same again: nothing is restarted, and nothing is written.
    let tree = host.podman.env.tree();
    let again = host.ok(&["model", "use", "two", "--slot", "chat", "--restart", "checked"]);
    assert_eq!(again, "model two is active in slot chat already; nothing was done\n");
    assert_eq!((host.served("checked").len(), host.podman.env.tree()), (2, tree));

    // What the slot leads to was removed: using the model again mends it.
    fs::remove_dir_all(host.slots().join(".held")).unwrap();
    host.ok(&["model", "use", "two", "--slot", "chat"]);
    assert_eq!(fs::read_to_string(slot.join("file")).unwrap(), "two");

    // Nix knows what the active model needs, and the one before is dropped.
    let file = host.path("store").join(base_name("two.gguf"));
    let root = |entry: fs::DirEntry| fs::read_link(fs::read_link(entry.path()).unwrap()).ok();
    let roots = fs::read_dir(host.path("nix/gcroots/auto")).unwrap().map(Result::unwrap);
    assert_eq!(
        roots
            .filter_map(|entry| fs::read_link(entry.path()).unwrap().starts_with(host.slots()).then(|| root(entry)))
            .flatten()
            .collect::<Vec<_>>(),
        [file]
    );
    assert_eq!(fs::read_dir(host.slots().join(".held")).unwrap().count(), 1);
    assert_eq!(host.needed(), [("chat".to_owned(), "two".to_owned(), false)]);

    // A model that the stack has no more stays active, and is told.
    host.load(&["one"]);
    let list = host.ok(&["model", "list"]);
    assert!(list.contains("slot chat  two") && list.contains("not in the current generation"), "{list}");
    assert!(list.ends_with("1 model in generation 2, 1 slot\n"), "{list}");
    assert_eq!(fs::read_to_string(slot.join("file")).unwrap(), "two");
}

#[test]
fn a_model_that_does_not_work_is_taken_back() {
    let host = Host::new(false);
    host.ok(&["model", "use", "one"]);
    let bind = format!("-v {}/default/file:/models/model.gguf:ro", host.slots().display());
    host.serve("checked", &bind, true, "model.gguf");
    let used = ["model", "use", "bad", "--restart", "checked", "--health-timeout", "2"];
    assert_eq!(
        host.fails(&used),
        (
            1,
            "container checked is not healthy with model bad: the health check of container checked fails, after 2 s; \
             it runs with one again"
                .to_owned()
        )
    );
    assert_eq!(host.served("checked"), ["one", "bad", "one"]);
    assert_eq!(fs::read_to_string(host.slots().join("default/file")).unwrap(), "one");
    assert_eq!(host.needed(), [("default".to_owned(), "one".to_owned(), false)]);
    assert_eq!(fs::read_dir(host.slots().join(".held")).unwrap().count(), 1);

    // One that ends is not waited for; one that has no single file does not even start.
    host.serve("plain", &bind, false, "model.gguf");
    for (model, why) in [("ends", "ended with exit code 3"), ("split", "could not restart plain")] {
        let start = Instant::now();
        let (code, sentence) = host.fails(&["model", "use", model, "--restart", "plain"]);
        assert!(code == 1 && sentence.contains(why) && sentence.ends_with("; it runs with one again"), "{sentence}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(host.served("plain"), ["one", "ends", "one", "one"]);

    // The first model of a slot has none to go back to.
    host.ok(&["model", "use", "bad", "--slot", "other"]);
    let other = bind.replace("default", "other");
    host.serve("other", &other, true, "model.gguf");
    fs::remove_file(host.slots().join("other")).unwrap();
    let (code, sentence) =
        host.fails(&["model", "use", "bad", "--slot", "other", "--restart", "other", "--health-timeout", "1"]);
    assert!(code == 1 && sentence.contains("the slot had no other model before, so it stays active"), "{sentence}");
    // When neither is well, that is said, and the slot still names a whole model.
    let (code, sentence) = host.fails(&["model", "use", "ends", "--slot", "other", "--restart", "other"]);
    assert!(code == 1 && sentence.contains("ended with exit code 3"), "{sentence}");
    let used = host.ok(&["model", "use", "one", "--slot", "other", "--restart", "other"]);
    assert!(used.contains("restarted once and is healthy"), "{used}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_changes() {
    let host = Host::new(false);
    let refused = |arguments: &[&str]| host.fails(&[&["model", "use"], arguments].concat());
    assert_eq!(
        refused(&["three"]),
        (2, "there is no model 'three' among what is loaded; there are: bad, ends, one, split, two".to_owned())
    );
    let (code, sentence) = refused(&["one", "--slot", "../x"]);
    assert!(code == 2 && sentence.starts_with("'../x' is not a name for a slot"), "{sentence}");
    assert!(!host.slots().join("default").exists());
    host.ok(&["model", "use", "one"]);
    host.serve("alone", "-v /etc/hostname:/models/model.gguf:ro", false, "model.gguf");
    assert_eq!(
        refused(&["two", "--restart", "alone"]),
        (
            1,
            "container alone uses nothing of slot 'default', so that a restart would change nothing: bind \
             $T/podman/root/windlass/models/default/file or $T/podman/root/windlass/models/default/tree, or mount the \
             image localhost/windlass/default:active"
                .to_owned()
        )
    );
    let (code, sentence) = refused(&["two", "--restart", "nobody"]);
    assert!(
        code == 1 && sentence.contains("no such container nobody; name one that `podman ps --all` lists"),
        "{sentence}"
    );
    assert_eq!(fs::read_to_string(host.slots().join("default/file")).unwrap(), "one");
    // Podman has lost the image and the store the file.
    let two =
        host.json(&["model", "list"])["models"][4]["configDigest"].as_str().unwrap()["sha256:".len()..].to_owned();
    host.podman.run(&["rmi", "--force", &two]);
    fs::remove_file(host.path("store").join(base_name("two.gguf"))).unwrap();
    assert_eq!(
        refused(&["two"]),
        (1, "model two is not there any more: Podman has no image of it; load its stack again".to_owned())
    );
}

#[test]
fn an_image_mount_follows_its_name_at_a_restart() {
    let host = Host::new(false);
    host.ok(&["model", "use", "split", "--slot", "chat"]);
    let mount = "--mount type=image,source=localhost/windlass/chat:active,destination=/models";
    host.serve("mounted", mount, false, "models/s-00001-of-00002.gguf");
    let used = host.json(&["model", "use", "split", "--slot", "chat", "--restart", "mounted"]);
    assert_eq!((&used["changed"], &used["image"]), (&false.into(), &"localhost/windlass/chat:active".into()));
    // Another model has other file names: the server that wants the old ones does not start, and goes back.
    let (code, sentence) = host.fails(&["model", "use", "one", "--slot", "chat", "--restart", "mounted"]);
    assert!(code == 1 && sentence.ends_with("; it runs with split again"), "{sentence}");
    assert_eq!(host.served("mounted").iter().filter(|line| *line == "split").count(), 2);
    // A prune takes the name away; using the model again brings it back.
    host.podman.run(&["untag", "localhost/windlass/chat:active"]);
    let used = host.ok(&["model", "use", "split", "--slot", "chat", "--restart", "mounted"]);
    assert!(used.contains("restarted once and is healthy"), "{used}");
}

#[test]
fn a_linked_model_is_bound_from_the_store() {
    let host = Host::new(true);
    host.ok(&["model", "use", "one"]);
    let list = host.json(&["model", "list"]);
    for model in list["models"].as_array().unwrap() {
        assert_eq!(model["place"], "linked");
        let file = model["file"].as_str();
        assert_eq!(file.is_none(), model["name"] == "split");
        assert!(file.is_none_or(|file| file.starts_with("$T/store/")), "{model}");
        assert!(model["tree"].as_str().unwrap().starts_with("$T/linked/overlay/"));
    }
    assert_eq!(list["slots"][0]["image"], Value::Null);
    // Podman refuses to mount an image of a read-only store; the whole directory of a model can be bound instead.
    let image = format!("type=image,source={},destination=/models", list["models"][0]["ref"].as_str().unwrap());
    let mut mount = host.podman.command("podman");
    mount.args(["run", "--rm", "--network=none", "--mount", &image, "localhost/server:1", "/server", "/models/models"]);
    let refused = String::from_utf8(mount.output().unwrap().stderr).unwrap();
    assert!(refused.contains("mounting image volume"), "{refused}");
    host.ok(&["model", "use", "split"]);
    host.serve(
        "bound",
        &format!("-v {}/default/tree:/models:ro", host.slots().display()),
        true,
        "s-00001-of-00002.gguf",
    );
    assert_eq!(host.served("bound"), ["split"]);
    let names: Vec<String> =
        host.podman.run(&["images", "--format", "{{.Repository}}"]).lines().map(str::to_owned).collect();
    assert!(!names.contains(&"localhost/windlass/default".to_owned()), "{names:?}");
}

#[test]
fn a_unit_is_restarted_by_systemctl_and_its_containers_are_watched() {
    let host = Host::new(false);
    host.ok(&["model", "use", "one"]);
    let bind = format!("-v {}/default/file:/models/model.gguf:ro", host.slots().display());
    let label = "--label PODMAN_SYSTEMD_UNIT=llama.service";
    host.serve("unit", &format!("{bind} {label}"), true, "model.gguf");
    let again = format!(
        "podman rm --force --time 0 unit >/dev/null; exec podman run --detach --pull=never --network=none --name unit {bind} \
         {label} --health-cmd '[\"/server\",\"check\",\"/models/model.gguf\"]' localhost/server:1 /server /models/model.gguf"
    );
    let path = host.systemctl(&again);
    let run = |arguments: &[&str]| {
        host.command(&[&["model", "use"], arguments].concat()).env("PATH", &path).output().unwrap()
    };
    let switched = run(&["two", "--restart", "llama.service", "--user"]);
    assert_eq!(
        healthy(&String::from_utf8(switched.stdout).unwrap()),
        "model two is active in slot default, instead of one; llama.service was restarted once and is healthy"
    );
    assert_eq!(host.served("unit"), ["two"]);
    let bad = run(&["bad", "--restart", "llama.service", "--health-timeout", "2"]);
    assert_eq!(
        String::from_utf8(bad.stderr).unwrap(),
        "windlass: llama.service is not healthy with model bad: the health check of container unit fails, after 2 s; it \
         runs with two again\n"
    );
    assert_eq!(host.served("unit"), ["two"]);
    let asked = fs::read_to_string(host.path("asked")).unwrap();
    // A unit that failed too often would not be started at all.
    let restart =
        |user: &str| format!("{user}reset-failed -- llama.service\n{user}restart --no-block -- llama.service\n");
    assert_eq!(asked, [restart("--user "), restart(""), restart("")].concat());

    // The container's systemd unit is restarted: Podman would race with it. That it ends again and again is seen.
    fs::write(host.path("asked"), "").unwrap();
    let switched = run(&["one", "--restart", "unit"]);
    assert_eq!(
        healthy(&String::from_utf8(switched.stdout).unwrap()),
        "model one is active in slot default, instead of two; llama.service was restarted once and is healthy"
    );
    let asked = fs::read_to_string(host.path("asked")).unwrap();
    assert_eq!(asked, format!("show --property LoadState --value -- llama.service\n{}", restart("")));
    // How long the former container takes to stop is not counted.
    let slow = host.systemctl(&format!(
        "cd $(dirname $0)/..; echo deactivating >state; (sleep 12; echo active >state; {again}) >/dev/null 2>&1 &"
    ));
    let mut used = host.command(&["model", "use", "two", "--restart", "unit", "--health-timeout", "10"]);
    let Output { status, stderr, .. } = used.env("PATH", slow).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    assert_eq!(host.served("unit"), ["two"]);
    let ends = host.systemctl("podman rm --force --time 0 unit >/dev/null; echo 2 >$(dirname $0)/../ends");
    let mut used = host.command(&["model", "use", "ends", "--restart", "llama.service"]);
    let said = String::from_utf8(used.env("PATH", ends).output().unwrap().stderr).unwrap();
    assert!(said.contains("llama.service has failed; see its journal"), "{said}");
    // A unit that systemd does not know is not a unit.
    fs::write(host.path("known"), "not-found\n").unwrap();
    host.podman.run(&[
        "run",
        "--detach",
        "--pull=never",
        "--network=none",
        "--name",
        "old",
        "--label",
        "PODMAN_SYSTEMD_UNIT=old.service",
        "-v",
        &format!("{}/default/file:/models/model.gguf:ro", host.slots().display()),
        "localhost/server:1",
        "/server",
        "/models/model.gguf",
    ]);
    let switched = run(&["two", "--restart", "old", "--health-timeout", "6"]);
    let said = String::from_utf8(switched.stdout).unwrap();
    assert!(said.contains("container old was restarted once and is healthy"), "{said}");
}

#[test]
fn a_kill_in_the_middle_leaves_a_whole_model_and_a_way_on() {
    let host = Host::new(false);
    host.ok(&["model", "use", "one"]);
    let file = host.slots().join("default/file");
    let bind = format!("-v {}:/models/model.gguf:ro", file.display());
    host.serve("checked", &bind, true, "model.gguf");
    let bad = ["model", "use", "bad", "--restart", "checked"];
    let child = host.command(&bad).spawn().unwrap();
    host.wait_for("the new model is served", || host.podman.run(&["logs", "checked"]).contains("bad"));
    // It waits until the service is healthy, which a signal ends at once.
    ends(child, 15);
    assert_eq!(fs::read_to_string(&file).unwrap(), "bad");
    assert_eq!(
        host.needed(),
        [("default".to_owned(), "bad".to_owned(), false), ("default".to_owned(), "one".to_owned(), true)]
    );
    let list = host.ok(&["model", "list"]);
    assert!(list.contains("a switch has not ended: use a model again"), "{list}");
    // The same again is not taken for done, and the way back is the model that was well.
    let (code, sentence) = host.fails(&[&bad[..], &["--health-timeout", "1"]].concat());
    assert!(code == 1 && sentence.ends_with("it runs with one again"), "{sentence}");
    assert_eq!(host.served("checked"), ["one", "bad", "bad", "one"]);
    assert_eq!(host.needed(), [("default".to_owned(), "one".to_owned(), false)]);

    // At any moment.
    for n in 0..12_u64 {
        let model = if n % 2 == 0 { "two" } else { "one" };
        let mut child =
            host.command(&["model", "use", model, "--restart", "checked"]).stdout(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(n * 45));
        drop(child.kill());
        child.wait().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(["one", "two"].contains(&text.as_str()), "{text}");
        active(&Slots::of(&host.path("podman/root"))).unwrap();
    }
    // A restart that was under way goes on without windlass.
    host.podman.wait_for_podman();
    host.ok(&["model", "use", "two", "--restart", "checked"]);
    assert_eq!(host.served("checked").last().unwrap(), "two");
    host.ok(&["model", "use", "one", "--restart", "checked"]);
    assert_eq!(host.served("checked").last().unwrap(), "one");
    assert_eq!(fs::read_dir(host.slots().join(".held")).unwrap().count(), 1);
    let state = fs::read_dir(host.slots().join(".state")).unwrap();
    assert_eq!(state.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["default.lock"]);
}
