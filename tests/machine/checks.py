#!/usr/bin/env python3
"""Boots a Debian with the units of the NixOS modules, and checks what they do. `./dev machine` runs it.

  checks.py [--suite trixie|sid] [--root DIR] [--restarts N] [STEP...]

Each step prints what it found and how long it took. Nothing here has a network: the machine has its loopback alone, and
what tried to leave it is counted. A failed step is told with the journal of the machine, and the exit code is 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time

import machine as debian
from machine import Failed, Machine

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
NIX = "experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstitute = false"
SERVICES = ("redis", "postgres", "llama-cpp")
# How long a container may take to be healthy on a busy machine of two processors.
PATIENCE = 120


class Checks:
    """The machine, and what the steps share."""

    def __init__(self, box, systems, log):
        self.box, self.systems, self.log = box, systems, log
        self.start, self.variant, self.unsent = time.monotonic(), None, 0

    def say(self, text):
        line = f"[{time.monotonic() - self.start:7.1f} s] {text}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def expect(self, condition, text):
        if not condition:
            raise Failed(text)

    def wait(self, what, is_so, limit=PATIENCE, pause=0.2):
        """Seconds until it is so."""
        start = time.monotonic()
        while not is_so():
            self.expect(time.monotonic() - start < limit, f"{what}: not within {limit} s")
            time.sleep(pause)
        return time.monotonic() - start

    # What is asked of systemd and Podman.

    def unit(self, name):
        return f"{name}.service" if self.variant.startswith(("quadlet", "rootless", "home")) else f"podman-{name}.service"

    @property
    def user(self):
        return "ai" if self.variant in ("rootless", "home") else None

    def ask(self, command, **more):
        return self.box.read(command, user=self.user, **more)

    def systemctl(self, words, **more):
        return self.ask(f"systemctl {'--user ' if self.user else ''}{words}", **more)

    def health(self, name):
        asked = self.box.call(f"podman inspect --format '{{{{.State.Health.Status}}}}' {name}", user=self.user)
        return asked.stdout.strip()

    def healthy(self, *names, limit=PATIENCE):
        return max(self.wait(f"{name} healthy", lambda name=name: self.health(name) == "healthy", limit) for name in names or SERVICES)

    def failed_units(self):
        return self.systemctl("list-units --failed --plain --no-legend | cut -d' ' -f1").split()

    def nothing_failed(self):
        self.expect(not self.failed_units(), f"failed units: {self.failed_units()}")

    def started(self):
        """Container -> when it was started."""
        words = "podman ps --all --format '{{.Names}} {{.ID}}'"
        return dict(line.split() for line in self.ask(words).splitlines())

    def serves(self):
        """What the services themselves answer, through their ports."""
        self.box.read("exec 3<>/dev/tcp/127.0.0.1/6379; printf 'PING\\r\\n' >&3; read -r -t 5 answer <&3; [[ $answer == +PONG* ]]")
        models = json.loads(self.box.read("curl -sf http://127.0.0.1:8080/v1/models"))
        psql = self.ask("podman exec postgres sh -c 'command -v psql' || true") or "psql"
        asked = "create table if not exists kept (n int); insert into kept values (1); select count(*) from kept"
        rows = self.ask(f"podman exec postgres {psql} --username=postgres --tuples-only --no-align --quiet --command='{asked}'")
        return models["data"][0]["id"], int(rows)

    def switch(self, variant, code=0):
        """Seconds that a switch took, and what it did with the units."""
        start = time.monotonic()
        done = self.box.call(f"switch switch {self.systems[variant]}", limit=600)
        took = time.monotonic() - start
        self.variant = variant
        self.expect(done.returncode == code, f"switch to {variant}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return took, json.loads(done.stdout.splitlines()[0])

    def boot(self, variant):
        self.box.stop()
        debian.tool("chroot", self.box.root, "/usr/local/sbin/switch", "boot", self.systems[variant])
        self.variant = variant
        self.box.boot()

    def sent(self):
        """Packets that there was no route for, and interfaces that lead out."""
        links = json.loads(self.box.read("ip -json link"))
        outside = [link["ifname"] for link in links if link["ifname"] != "lo" and not link["ifname"].startswith(("podman", "veth"))]
        routes = self.box.read("ip route show default; ip -6 route show default")
        counts = self.box.read("nstat -asz IpOutNoRoutes IpInAddrErrors IpExtInNoRoutes Ip6OutNoRoutes | awk 'NR > 1 { s += $2 } END { print s + 0 }'")
        return outside, routes, int(counts)

    # The steps, in their order.

    def step_boot(self):
        """boot, the store made, images loaded, three services healthy"""
        self.box.stop()
        # As new: nothing loaded, no data.
        for place in ("var/lib/containers", "var/lib/ai-stack", "nix/var/windlass", "home/ai/.local", "home/ai/.config", "nix/var/nix/gcroots/auto"):
            subprocess.run(["rm", "-rf", "--one-file-system", f"{self.box.root}/{place}"], check=True)
        begin = time.monotonic()
        self.boot("base")
        self.healthy(*SERVICES)
        healthy = time.monotonic() - begin
        self.wait("the boot", lambda: self.box.code("systemctl is-active --quiet multi-user.target") == 0)
        loader = self.box.read("journalctl --boot --unit windlass-load.service --output cat | grep network")
        self.nothing_failed()
        self.serves()
        self.expect("network 0 bytes" in loader, loader)
        self.expect(self.box.read("find /nix/var/nix/gcroots/auto -type l | wc -l") != "0", "generations are no roots")
        checked = json.loads(self.box.read("windlass doctor --json || true"))
        self.unsent = self.sent()[2]
        analyze = self.box.read("systemd-analyze | head -1")
        return f"healthy after {healthy:.1f} s; {analyze}; {loader}; doctor: {json.dumps(checked)[:60]}…"

    def step_healthy_when_serving(self):
        """llama.cpp is healthy within 2 s of serving"""
        self.systemctl(f"restart --no-block {self.unit('llama-cpp')}")
        time.sleep(1)
        # Both are looked at from inside, as entering takes a while.
        script = """import subprocess, time, urllib.request
def serves():
    try: return urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=1).status == 200
    except OSError: return False
while not serves(): time.sleep(0.02)
start = time.monotonic()
ask = ["podman", "inspect", "--format", "{{.State.Health.Status}}", "llama-cpp"]
while subprocess.run(ask, capture_output=True, text=True).stdout.strip() != "healthy": time.sleep(0.02)
print(round(time.monotonic() - start, 2))"""
        took = float(self.box.read(f"python3 -c '{script}'", limit=120))
        self.expect(took < 2, f"healthy {took} s after it serves")
        self.wait("everything has started", lambda: self.box.code("systemctl is-active --quiet podman-last.service") == 0)
        return f"healthy {took} s after it serves"

    def step_unchanged(self):
        """the same system again: no unit restarts"""
        before = self.started()
        took, did = self.switch(self.variant)
        self.expect(did == {"stop": [], "restart": [], "start": []} and self.started() == before, f"{did}")
        self.expect(took < 2, f"the switch took {took:.1f} s")
        return f"the whole switch {took:.2f} s"

    def step_changed(self):
        """one service changed: only that one restarts"""
        before = self.started()
        took, did = self.switch("changed")
        after = self.started()
        different = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        self.expect(different == {"redis"}, f"{different}, {did}")
        self.healthy("redis")
        return f"{took:.1f} s, {did}"

    def step_rollback(self):
        """the former system again, and an older generation of images"""
        took, did = self.switch("base")
        self.expect(did["start"] == ["podman-redis.service"], f"{did}")
        self.healthy()
        listed = json.loads(self.box.read("windlass generations --json"))
        self.nothing_failed()
        return f"{took:.1f} s, {did['start']}; {len(json.dumps(listed))} bytes of generations"

    def step_secrets(self):
        """a wrong secret, then none, then the right one"""
        keys, unit = "/run/keys/postgres-password", self.unit("postgres")
        right = self.box.read(f"cat {keys}")
        self.box.write(keys, "another\n")
        self.systemctl(f"restart {unit}")
        self.healthy("postgres")
        # The data are of the first password: a client with the new one is turned away.
        ip = self.box.read("podman inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' postgres")
        psql = f"podman run --rm --pull=never --network=ai-stack --env PGPASSWORD=another --entrypoint psql {self.box.read('podman inspect --format {{.ImageName}} postgres')}"
        said = self.box.call(f"{psql} --host={ip} --username=postgres --command='select 1'")
        self.expect("password authentication failed" in said.stderr, f"{said.stdout}{said.stderr}")
        mode = self.box.read("podman exec postgres stat -c '%a %u' /run/secrets/postgres-password")
        self.box.read(f"rm {keys}")
        self.expect(self.box.code(f"systemctl restart {unit}") != 0, "started without its secret")
        told = self.box.read(f"journalctl --boot --unit {unit} --output cat | grep -F {keys} | tail -1")
        self.box.write(keys, right + "\n")
        self.box.read(f"chmod 400 {keys}")
        took = self.wait("postgres is back by itself", lambda: self.health("postgres") == "healthy", 90)
        self.nothing_failed()
        self.expect(mode == "400 5432", mode)
        return f"wrong: turned away; none: “{told}”; back by itself {took:.1f} s after it was there"

    def step_kill(self):
        """kill -9 of a container's process, of conmon, and podman's own ways to end one"""
        told = []
        for how in ("process", "conmon", "podman kill", "podman stop", "podman rm --force --time 0"):
            old = self.started()["redis"]
            if how == "process":
                self.ask("kill -9 $(podman inspect --format '{{.State.Pid}}' redis)")
            elif how == "conmon":
                self.ask("kill -9 $(podman inspect --format '{{.State.ConmonPid}}' redis)")
            else:
                self.ask(f"{how} redis")
            took = self.wait(f"redis is back after {how}", lambda old=old: self.started().get("redis", old) != old and self.health("redis") == "healthy")
            told.append(f"{how} {took:.1f} s")
            self.nothing_failed()
        self.serves()
        return ", ".join(told)

    def step_prune(self):
        """podman prunes everything that it takes for unused, and repairs its storage"""
        before = self.started()
        self.box.read("podman image prune --all --force; podman system prune --all --force")
        check = "this Podman has none"
        if self.box.code("podman system check --help | grep -q -e --repair") == 0:
            check = self.box.call("podman system check --quick").returncode
            repaired = self.box.call("podman system check --repair --force")
            check = f"exit codes {check}, {repaired.returncode}"
        verified = self.box.read("windlass verify --full | tail -1")
        self.expect(self.started().keys() == before.keys(), f"{before} {self.started()}")
        self.systemctl(f"restart {self.unit('redis')}")
        self.healthy()
        return f"containers and images are there; podman system check: {check}; {verified}"

    def step_model_use(self):
        """model use: with the unit, with the container; a model that exits, one that hangs, and the way back"""
        self.switch("bind")
        self.healthy()
        told = []
        for model, target in (("second", "podman-llama-cpp.service"), ("smollm2", "llama-cpp")):
            start = time.monotonic()
            said = self.box.read(f"windlass model use {model} --slot chat --restart {target} 2>&1")
            self.expect("podman-llama-cpp.service was restarted once and is healthy" in said, said)
            self.expect(self.health("llama-cpp") == "healthy", self.health("llama-cpp"))
            told.append(f"{model} by {target} {time.monotonic() - start:.1f} s")
        for attempt in (1, 2):
            start = time.monotonic()
            bad = self.box.call("windlass model use unknown --slot chat --restart llama-cpp --health-timeout 60")
            self.expect(bad.returncode == 1 and "it runs with smollm2 again" in bad.stderr, f"{bad.stdout}{bad.stderr}")
            self.healthy()
            told.append(f"one that exits, back after {time.monotonic() - start:.1f} s")
        stop = threading.Event()

        def hang():
            # A server that does not answer any more, as soon as it has the second model.
            while not stop.wait(0.2):
                self.box.call("[[ $(readlink -f /var/lib/containers/storage/windlass/models/chat/file) == *second* ]] && kill -STOP $(podman inspect --format '{{.State.Pid}}' llama-cpp)")

        thread = threading.Thread(target=hang)
        thread.start()
        start = time.monotonic()
        bad = self.box.call("windlass model use second --slot chat --restart podman-llama-cpp.service --health-timeout 15", limit=200)
        stop.set()
        thread.join()
        self.expect(bad.returncode == 1 and "it runs with smollm2 again" in bad.stderr, f"{bad.stdout}{bad.stderr}")
        told.append(f"one that hangs (15 s allowed), back after {time.monotonic() - start:.1f} s")
        self.healthy()
        self.nothing_failed()
        return "; ".join(told)

    def step_model_image(self):
        """model use of mounted images (delivery = "image", pulled)"""
        took, _ = self.switch("image")
        self.healthy()
        said = self.box.read("windlass model use second --slot chat --restart podman-llama-cpp.service 2>&1")
        self.expect("restarted once and is healthy" in said, said)
        model, _ = self.serves()
        mounted = self.box.read("podman inspect --format '{{range .Mounts}}{{.Type}}={{.Source}} {{end}}' llama-cpp")
        self.nothing_failed()
        return f"switch with the first pull {took:.1f} s; serves {model}; {said.splitlines()[-1]}; {mounted}"

    def step_timers(self):
        """gc and verify, started by their timers"""
        self.switch("timers")
        since = self.box.read("date +%s")
        for unit in ("windlass-gc", "windlass-verify"):
            self.wait(f"{unit} ran", lambda unit=unit: "Finished" in self.box.read(f"journalctl --since @{since} --unit {unit}.service"), 120, 1)
        said = self.box.read(f"journalctl --since @{since} --unit windlass-gc.service --unit windlass-verify.service --output cat | grep -E '^[0-9]' | tail -4")
        self.switch("base")
        self.healthy()
        self.nothing_failed()
        return said.replace("\n", "; ")

    def step_artifact(self):
        """model artifact links the file of a /nix/store that is read-only over itself"""
        if self.box.code("podman artifact ls") != 0:
            return "this Podman has no artifacts"
        folder = self.box.read("tr ' ' '\\n' </etc/systemd/system/windlass-load.service | grep -- '-lean' | head -1")
        said = self.box.read(f"windlass model artifact {folder}/models/smollm2 2>&1")
        self.expect("98.4 MB with the store" in said, said)
        return said.splitlines()[-1]

    def step_restarts(self):
        """restarts under load: none hangs, none leaves a failed unit"""
        load = subprocess.Popen(["nice", "sh", "-c", "while :; do :; done"])
        told = []
        try:
            for name in SERVICES:
                times, broken = [], []
                for _ in range(self.restarts):
                    start = time.monotonic()
                    self.systemctl(f"restart {self.unit(name)}", limit=300)
                    times.append(time.monotonic() - start)
                    if self.health(name) != "healthy":
                        broken.append("not healthy")
                    broken += self.failed_units()
                self.expect(not broken, f"{name}: {broken}")
                told.append(f"{name} {len(times)} of {self.restarts}, {min(times):.1f} to {max(times):.1f} s")
        finally:
            load.kill()
            load.wait()
        return "; ".join(told)

    def step_reboot(self):
        """reboot: the same containers without a byte written"""
        _, rows = self.serves()
        begin = time.monotonic()
        self.boot(self.variant)
        self.healthy()
        took = time.monotonic() - begin
        self.wait("the boot", lambda: self.box.code("systemctl is-active --quiet multi-user.target") == 0)
        loader = self.box.read("journalctl --boot --unit windlass-load.service --output cat | grep network")
        self.expect("0 loaded" in loader and "wrote 0 B" in loader, loader)
        self.expect(self.serves()[1] == rows + 1, "postgres lost a row")
        self.nothing_failed()
        self.unsent = self.sent()[2]
        return f"healthy after {took:.1f} s, the data are there; {loader}"

    def step_quadlet(self):
        """the same services by Quadlet, one of them changed, and back: the data are kept"""
        _, rows = self.serves()
        there, _ = self.switch("quadlet")
        self.healthy()
        self.expect(self.serves()[1] == rows + 1, "postgres lost a row")
        before = self.started()
        changed, did = self.switch("quadletchanged")
        after = self.started()
        different = {name for name in before if before[name] != after.get(name)}
        self.expect(different == {"redis"}, f"{different} {did}")
        self.restart_all(3)
        back, _ = self.switch("base")
        self.healthy()
        self.expect(self.serves()[1] == rows + 2, "postgres lost a row")
        self.nothing_failed()
        return f"there {there:.1f} s, one changed {changed:.1f} s, back {back:.1f} s"

    def restart_all(self, times):
        for _ in range(times):
            for name in SERVICES:
                self.systemctl(f"restart {self.unit(name)}", limit=300)
                self.expect(self.health(name) == "healthy" and not self.failed_units(), f"{name}: {self.health(name)} {self.failed_units()}")

    def step_rootless(self):
        """rootless: units of a user who lingers, with images of root's linked store"""
        self.box.read("systemctl stop podman-last podman-llama-cpp podman-postgres podman-redis; rm -rf /var/lib/ai-stack")
        self.box.read("mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/ai")
        begin = time.monotonic()
        self.boot("rootless")
        self.healthy()
        took = time.monotonic() - begin
        self.serves()
        self.restart_all(5)
        self.ask("kill -9 $(podman inspect --format '{{.State.ConmonPid}}' redis)")
        old = self.started().get("redis")
        back = self.wait("redis is back", lambda: self.started().get("redis") != old and self.health("redis") == "healthy")
        self.nothing_failed()
        own = self.box.read("du -s --block-size=1M /home/ai/.local/share/containers/storage/overlay | cut -f1")
        return f"boot to healthy {took:.1f} s; 15 restarts; conmon killed, back {back:.1f} s; {own} MB of its own"

    def step_home(self):
        """home-manager's files as a user's own units"""
        self.box.read("systemctl --user --machine=ai@ stop 'redis*' 2>/dev/null; true")
        user_home = "home/ai/.config"
        self.boot_home(user_home)
        self.healthy(limit=180)
        self.serves()
        self.restart_all(2)
        self.nothing_failed()
        return f"healthy; {self.systemctl('list-units --plain --no-legend --state=running *.service | wc -l')} units of the user run"

    def boot_home(self, folder):
        """Boots without a system's containers, and with the files of a home."""
        self.box.stop()
        home = self.systems["home"]
        # Linked as home-manager links them; the machine has only the linked store and no containers of the system.
        subprocess.run(["rm", "-rf", f"{self.box.root}/{folder}", f"{self.box.root}/var/lib/ai-stack", f"{self.box.root}/home/ai/.local/share/ai-stack"], check=True)
        debian.tool("chroot", self.box.root, "/usr/local/sbin/switch", "boot", self.systems["none"])
        # The home is in the machine's own store, which this one need not have.
        top = f"{self.box.root}{home}/home"
        for place, _, names in os.walk(top):
            for name in names:
                link = f"{self.box.root}/home/ai/{os.path.relpath(f'{place}/{name}', top)}"
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(os.readlink(f"{place}/{name}"), link)
        subprocess.run(["chroot", self.box.root, "chown", "-R", "--no-dereference", "ai:ai", "/home/ai/.config"], check=True)
        self.variant = "home"
        self.box.boot()

    def step_offline(self):
        """nothing was sent: no interface that leads out, no route, and no packet that looked for one since the boot"""
        outside, routes, count = self.sent()
        self.expect(not outside and not routes, f"{outside} {routes}")
        self.expect(count == self.unsent, f"{count - self.unsent} packets looked for a route")
        return f"interfaces out: 0, default routes: 0, packets without a route: {count - self.unsent}"


STEPS = """boot healthy_when_serving unchanged changed rollback secrets kill prune artifact restarts offline reboot model_use timers
 quadlet offline model_image rootless home""".split()
VARIANTS = "base changed bind image timers quadlet quadletchanged rootless home none".split()


def build(variant):
    words = ["nix-build", "--no-out-link", f"{HERE}/system.nix", "--argstr", "variant", variant]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--root", help="where the Debian is kept (default: target/machine/SUITE)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("steps", nargs="*", default=STEPS)
    args = parser.parse_args()
    os.environ["NIX_CONFIG"] = NIX
    kept = os.path.abspath(args.root or f"{TOP}/target/machine/{args.suite}")
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    with open(f"{os.path.dirname(kept)}/{args.suite}.log", "w") as log:
        debian.make_root(kept, args.suite, args.mirror, log)
        debian.set_up(kept)
        checks = Checks(Machine(kept, f"windlass-{args.suite}"), {}, log)
        checks.restarts = args.restarts
        start = time.monotonic()
        for variant in VARIANTS:
            checks.systems[variant] = build(variant)
            debian.copy_system(kept, checks.systems[variant], log)
        checks.say(f"{len(VARIANTS)} systems built and in the machine's store: {time.monotonic() - start:.1f} s")
        failed = []
        try:
            for step in args.steps:
                function = getattr(checks, f"step_{step}")
                what = re.sub(r"\s+", " ", function.__doc__)
                begin = time.monotonic()
                try:
                    found = function()
                    checks.say(f"ok      {what} ({time.monotonic() - begin:.1f} s): {found}")
                except (Failed, subprocess.SubprocessError, ValueError, KeyError, IndexError) as error:
                    failed.append(step)
                    checks.say(f"FAILED  {what} ({time.monotonic() - begin:.1f} s): {type(error).__name__} {error}")
                    if checks.box.leader:
                        log.write(checks.box.call("journalctl --boot --no-pager --output short-monotonic | tail -300; podman ps --all").stdout)
        finally:
            checks.box.stop()
        versions = subprocess.run(["chroot", kept, "sh", "-c", "podman --version; systemctl --version | head -1; crun --version | head -1; nix --version"], capture_output=True, text=True)
        checks.say("; ".join(versions.stdout.split("\n")))
        checks.say(f"{len(args.steps) - len(failed)} of {len(args.steps)} steps are right" + (f"; failed: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
