"""`windlass load --into ENGINE` and the verbs after it, in a daemon that runs: what windlass says is compared with what the daemon says."""

import json
import os
import signal
import subprocess
import time

from steps import WORK, add_to_store, check, wait_for, write

# Bytes of a layer that takes its time.
LARGE = 96 << 20
STEPS = tuple(f"into: {name}" for name in ("load", "again", "changed", "status", "rollback", "space", "killed", "gc", "unload"))


def bytes_of(folder):
    """What the files below a folder take on the disk; what goes away meanwhile is not counted."""
    seen, total = set(), 0
    for place, _, names in os.walk(folder):
        # What is mounted there is a second look at the same files.
        if place.endswith("/merged"):
            continue
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                total += found.st_blocks * 512
    return total


class Into:
    """A daemon as windlass knows it. `ids` gives each name that the daemon has with the ID that it leads to, `id_of` the ID that an image
    is to have there, `runs` runs it under a name, `partial` gives the bytes of imports under way, `remove` takes a name away, and `used` gives the
    bytes of the daemon's data."""

    def __init__(self, row, engine, ids, id_of, runs, partial, remove, used):
        self.row, self.engine, self.ids, self.id_of, self.runs = row, engine, ids, id_of, runs
        self.partial, self.remove, self.used = partial, remove, used

    def windlass(self, verb, *arguments, code=0, seconds=60):
        """What a verb says as JSON."""
        return json.loads(self.row.run("windlass", verb, *arguments, "--into", self.engine, "--json", code=code, seconds=seconds))

    def state(self):
        """The folder with what windlass notes."""
        [folder] = os.listdir(f"/var/lib/windlass/{self.engine}")
        return f"/var/lib/windlass/{self.engine}/{folder}"

    def own(self, stack):
        """The name that no other image has."""
        return f"{stack.tag.rsplit(':', 1)[0]}:windlass-{stack.digest.split(':')[1][:12]}"

    def has(self, stack):
        """The daemon has it under both of its names, and they lead to the image that was built."""
        ids, want = self.ids(), self.id_of(stack)
        for name in (stack.tag, self.own(stack)):
            check(ids.get(name) == want, f"the daemon has {name} as {ids.get(name)}, not {want}")

    def reason(self, report, name):
        """What a load did with one image, and why."""
        image = next(image for image in report["images"] if image["name"] == name)
        return image["action"], image["reason"]

    def steps(self, one, two):
        """All of them."""
        row, model_size = self.row, 24 + 64 * 4096
        with row.step("into: load"):
            planned = self.windlass("load", one.path, "--dry-run")
            check((planned["toLoad"], planned["present"]) == (2, 0), f"the plan is {planned}")
            check(planned["bytesNeeded"] >= planned["bytesToWrite"] > model_size, f"the plan needs {planned['bytesNeeded']}")
            check(not os.path.exists("/var/lib/windlass"), "a plan made a folder")
            said = row.run("sh", "-c", f'exec windlass load {one.path} --into {self.engine} 2>&1')
            check("2 loaded, 0 present" in said and "network 0 bytes" in said, f"it says {said}")
            self.has(one)
            mode = os.stat("/var/lib/windlass").st_mode & 0o7777
            check(mode == 0o700, f"/var/lib/windlass has the mode {mode:o}")
            [line] = [line for line in said.splitlines() if line.startswith("next: ")]
            check(line.endswith(self.own(one)) or line.endswith(one.by_digest), f"it says {line}")
            self.runs(one, line.split()[-1])
        with row.step("into: again"):
            began = time.monotonic()
            again = self.windlass("load", one.path)
            took = time.monotonic() - began
            check((again["present"], again["written"], again["loaded"]) == (2, 0, 0), f"again: {again}")
            check(took < 2, f"to find out that all is there took {took:.2f} s")
            row.note("into: again", f"ok, {took * 1000:.0f} ms")
        with row.step("into: changed"):
            before = self.windlass("load", two.path, "--dry-run")
            # The model is there.
            most = planned["bytesToWrite"] - model_size
            check(before["bytesToWrite"] <= most, f"it would write {before['bytesToWrite']} for a text, more than {most}")
            changed = self.windlass("load", two.path)
            check(self.reason(changed, "app") == ("pull", "version changed"), f"changed: {changed}")
            most = planned["bytesNeeded"] - model_size
            check(changed["written"] <= most and changed["generation"] == 2, f"it wrote {changed['written']}, more than {most}")
            self.has(two)
            check(self.ids()[self.own(one)] == self.id_of(one), "the former image lost the name of its own")
            self.runs(two, two.tag)
        with row.step("into: status"):
            status = self.windlass("status")
            states = {image["name"]: image["state"] for image in status["images"]}
            check(states == {"app": "present", two.model: "present"} and status["engine"] == self.engine, f"status: {status}")
            full = self.windlass("verify", "--full")
            check(full["problems"] == [] and full["read"] > model_size, f"verify: {full}")
            self.remove(two.tag)
            status = self.windlass("status", code=1)
            states = {image["name"]: image["state"] for image in status["images"]}
            check(states == {"app": "changed", two.model: "present"}, f"status: {states}")
            found = self.windlass("verify", code=4)
            check([problem["state"] for problem in found["details"]] == ["renamed"], f"verify: {found}")
            self.windlass("rollback", "2")
            self.has(two)
            self.windlass("verify")
            refused = row.run("sh", "-c", f"windlass load {one.path} --into {self.engine} --via store 2>&1", code=2)
            check("cannot use a linked store" in refused and "Podman" in refused, f"it says {refused}")
        with row.step("into: rollback"):
            back = self.windlass("rollback")
            check((back["from"], back["to"], back["loaded"]) == (2, 1, 0), f"rollback: {back}")
            self.has(one)
            self.runs(one, one.tag)
            whole = [(one["number"], one["current"], one["whole"]) for one in self.windlass("generations")["generations"]]
            check(whole == [(1, True, True), (2, False, True)], f"generations: {whole}")
            # What is gone is loaded again.
            for name in [name for name, digest in self.ids().items() if digest == self.id_of(two)]:
                self.remove(name)
            back = self.windlass("rollback", "2")
            check(back["loaded"] == 1, f"rollback: {back}")
            self.has(two)
        with row.step("into: space"):
            self.space(two)
        with row.step("into: killed"):
            self.killed(two)
        with row.step("into: gc"):
            plan = self.windlass("gc", "--keep-generations", "1")
            check(any(self.own(one).split("-")[-1] in removal["name"] for removal in plan["remove"]), f"gc: {plan}")
            done = self.windlass("gc", "--keep-generations", "1", "--apply")
            check(all(removal["removed"] for removal in done["remove"]), f"gc: {done}")
            ids = self.ids()
            check(self.own(one) not in ids, f"the daemon still has {ids}")
            check(self.windlass("gc", "--keep-generations", "1")["remove"] == [], "a second clean-up has something to do")
            self.has(two)
            self.windlass("verify")
        with row.step("into: unload"):
            gone = self.windlass("unload", "app", two.model, "large", "large-model")
            check(gone["applied"] and len(gone["images"]) == 4, f"unload: {gone}")
            left = [name for name in self.ids() if "windlass-" in name]
            check(left == [], f"the daemon still has {left}")
            check(not os.path.exists(f"{self.state()}/pending.json"), "a note is left")

    def rests(self):
        """Waits until the daemon does nothing more with what it was sent."""
        last = []

        def same():
            last.append((self.partial(), self.used()))
            return len(last) > 5 and len(set(last[-5:])) == 1

        wait_for(same, "the daemon to rest")

    def large(self, two):
        """A stack with a layer that takes its time."""
        folder = f"{WORK}/large"
        os.makedirs(f"{folder}/model", exist_ok=True)
        with open(f"{folder}/model/large.bin", "wb") as file:
            for _ in range(LARGE >> 22):
                file.write(os.urandom(4 << 20))
        model = add_to_store(self.row, f"{folder}/model")
        tool = two.command[0].rsplit("/bin/", 1)[0]
        write(f"{folder}/spec.json", json.dumps({
            "kind": "stack", "name": "large",
            "images": [{
                "name": "large", "tag": "1", "content": {"deps": [tool]}, "config": {"Cmd": [f"{tool}/bin/busybox", "true"]},
                "models": [{"spec": {"name": "large-model", "files": {"large.bin": f"{model}/large.bin"}}}],
            }],
        }))
        self.row.run("windlass", "build", f"{folder}/spec.json", "--output", f"{folder}/stack")
        return f"{folder}/stack"

    def space(self, two):
        """What a load says that it needs, and what it really takes at its fullest moment and afterwards."""
        row, large = self.row, self.large(two)
        self.rests()
        before = self.used()
        plan = self.windlass("load", large, "--dry-run")
        with subprocess.Popen(["windlass", "load", large, "--into", self.engine], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
            fullest = before
            while load.poll() is None:
                fullest = max(fullest, self.used())
                time.sleep(0.1)
            check(load.returncode == 0, f"the load ended with {load.returncode}")
        took, stays = fullest - before, self.used() - before
        needed, writes = plan["bytesNeeded"], plan["bytesToWrite"]
        row.ran.append(f"said that it needs {needed} and writes {writes}; took {took} and left {stays}")
        # The fullest moment may be between two looks, but not far away from one.
        check(0.7 * needed <= took <= 1.02 * needed, f"it took {took} at its fullest moment, and said {needed}")
        check(0.95 * writes <= stays <= 1.05 * writes, f"it left {stays}, and said {writes}")
        row.note("into: space", f"ok, {took / LARGE:.1f} × the layer, then {stays / LARGE:.1f}")
        self.windlass("unload", "large", "large-model")

    def killed(self, two):
        """A load is killed while the daemon takes its bytes; the next one brings all of it, and nothing is left over."""
        large = f"{WORK}/large/stack"
        self.rests()
        before = self.ids()
        with subprocess.Popen(
            ["windlass", "load", large, "--into", self.engine, "--image", "large"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as load:
            wait_for(lambda: os.path.exists(f"{self.state()}/pending.json") and self.partial() > 1 << 20, "a load under way", seconds=20)
            check(load.poll() is None, "it was faster than its killer")
            load.send_signal(signal.SIGKILL)
            load.wait()
        check(os.path.exists(f"{self.state()}/pending.json"), "no note is left of it")
        check(self.windlass("status")["unconfirmed"], "status does not say that a load was killed")
        after = {name: digest for name, digest in self.ids().items() if not name.startswith("localhost/large:windlass-")}
        check(after == before, f"the names are {after}, and were {before}")
        # What it keeps of it, it takes up again.
        self.rests()
        loaded = self.windlass("load", large)
        check(self.partial() == 0, "the daemon has something left of the load that was killed")
        check(loaded["failed"] == 0 and not os.path.exists(f"{self.state()}/pending.json"), f"the next load: {loaded}")
        check("unconfirmed" not in self.windlass("status"), "status still says that a load was killed")
        self.windlass("verify", "--full")
        self.windlass("load", two.path)
