"""The steps, each with what it found as a line."""

import json
import os
import re
import subprocess
import time

import machine as debian
from session import SERVICES, Session


class Steps(Session):
    """In their order."""

    def step_boot(self):
        """boot, the store made, images loaded, three services healthy"""
        self.end()
        # As new: nothing loaded, no data.
        for place in ("var/lib/containers", "var/lib/ai-stack", "nix/var/windlass", "home/ai/.local", "home/ai/.config", "nix/var/nix/gcroots/auto"):
            subprocess.run(["rm", "-rf", "--one-file-system", f"{self.box.root}/{place}"], check=True)
        begin = time.monotonic()
        self.boot("base")
        self.healthy(*SERVICES)
        healthy = time.monotonic() - begin
        self.booted()
        loader = self.box.read("journalctl --boot --unit windlass-load.service --output cat | grep network")
        self.nothing_failed()
        self.serves()
        self.expect("network 0 bytes" in loader, loader)
        self.expect(self.box.read("find /nix/var/nix/gcroots/auto -type l | wc -l") != "0", "generations are no roots")
        doctor = self.box.call("windlass doctor")
        problems = [line for line in doctor.stdout.splitlines() if line.startswith("problem")]
        self.expect(not problems, doctor.stdout + doctor.stderr)
        analyze = self.box.read("systemd-analyze | head -1")
        programs = "podman --version; systemctl --version | head -1; crun --version | head -1; nix --version"
        versions = self.box.read(f"({programs}) | paste -sd, | sed 's/,/, /g'")
        return f"{versions}; healthy after {healthy:.1f} s; {analyze}; {loader}; doctor: {doctor.stdout.splitlines()[-1]}"

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
        # How long it takes on a busy machine says nothing, so it is told only.
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

    def step_back(self):
        """the former system again: only the unit that it has otherwise is restarted"""
        took, did = self.switch("base")
        self.expect(did["start"] == [self.unit("redis")], f"{did}")
        self.healthy()
        self.nothing_failed()
        return f"{took:.1f} s, {did['start']}"

    def step_rollback(self):
        """windlass rollback: the images of the generation before, while all containers go on; and forth by the loader"""
        self.switch("base")
        self.switch("bind")
        self.healthy()
        before = self.started()
        current = self.current_generation()
        start = time.monotonic()
        said = self.box.read("windlass rollback").splitlines()
        took = time.monotonic() - start
        self.expect("llama-cpp runs the former llama-cpp: systemctl restart podman-llama-cpp.service" in "".join(said), f"{said}")
        former = self.current_generation()
        self.expect(former["number"] == current["number"] - 1 and former["whole"], f"{former}")
        names = self.names(former)
        self.expect("smollm2" in names and "second" not in names, f"{names}")
        self.box.read("systemctl restart windlass-load.service")
        again = self.current_generation()
        self.expect(self.names(again) == self.names(current), f"{again}")
        self.expect(self.started() == before, f"{before} {self.started()}")
        self.nothing_failed()
        return f"{took:.1f} s: {said[-1]}; back by windlass-load to what generation {current['number']} has, as {again['number']}; the same containers go on"

    @staticmethod
    def names(generation):
        return {image["name"]: image["manifestDigest"] for image in generation["images"]}

    def current_generation(self):
        listed = json.loads(self.box.read("windlass generations --json"))
        return next(generation for generation in listed["generations"] if generation["current"])

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
        told = "this Podman has no system check"
        if self.box.code("podman system check --help | grep -q -e --repair") == 0:
            ways = ("--quick", "--max", "--repair", "--repair --force")
            checks = [self.box.call(f"podman system check {way}") for way in ways]
            # Some Podmans take the container of any image that is in an additional store for damaged; of the store itself
            # nothing may be said.
            named = set(re.findall("Damaged layer ([0-9a-f]{64})", "".join(check.stdout for check in checks)))
            ours = set(self.box.read("ls /nix/var/windlass/storage/overlay").split())
            self.expect(not named & ours, f"damaged: {named & ours}")
            told = "exit codes of podman system check " + ", ".join(f"{way} {check.returncode}" for way, check in zip(ways, checks))
        verified = self.box.read("windlass verify --full | tail -1")
        self.expect(self.started() == before, f"{before} {self.started()}")
        self.systemctl(f"restart {self.unit('redis')}")
        self.healthy()
        self.serves()
        self.nothing_failed()
        return f"the same containers go on; {told}; {verified}"

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
        # A server that never answers: it is stopped as soon as it is started with the second model.
        hang = """seen=$(podman inspect --format '{{.Id}}' llama-cpp)
            until read -r id pid < <(podman inspect --format '{{.Id}} {{.State.Pid}}' llama-cpp 2>/dev/null) && [[ $id != $seen && $pid -gt 1 ]]
            do sleep 0.05; done; kill -STOP $pid; echo $pid"""
        hanging = self.box.start(hang)
        start = time.monotonic()
        bad = self.box.call("windlass model use second --slot chat --restart podman-llama-cpp.service --health-timeout 20", limit=200)
        took = time.monotonic() - start
        self.expect(hanging.wait(30) == 0, "the server was not stopped")
        self.expect(bad.returncode == 1 and "it runs with smollm2 again" in bad.stderr, f"{bad.stdout}{bad.stderr}")
        # systemd would end it after 120 s; as Podman ends a container it takes 10 s.
        self.expect(took < 110, f"back after {took:.1f} s")
        told.append(f"one that hangs (20 s allowed), back after {took:.1f} s")
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
        units = ("windlass-gc", "windlass-verify")
        for unit in units:
            self.wait(f"{unit} ran", lambda unit=unit: "Finished" in self.box.read(f"journalctl --since @{since} --unit {unit}.service"), 120, 1)
        said = [self.box.read(f"journalctl --since @{since} _COMM=windlass _SYSTEMD_UNIT={unit}.service --output cat | tail -1") for unit in units]
        self.expect(all(said), f"{said}")
        self.switch("base")
        self.healthy()
        self.nothing_failed()
        return "; ".join(said)

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
                    # By hand it would be refused at once: systemd takes five starts in ten seconds (StartLimitBurst).
                    self.systemctl(f"reset-failed {self.unit(name)}")
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
        self.booted()
        loader = self.box.read("journalctl --boot --unit windlass-load.service --output cat | grep network")
        self.expect("0 loaded" in loader and "wrote 0 B" in loader, loader)
        self.expect(self.serves()[1] == rows + 1, "postgres lost a row")
        self.nothing_failed()
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
        self.end()
        home = self.systems["home"]
        # Linked as home-manager links them; the machine has only the linked store and no containers of the system.
        subprocess.run(["rm", "-rf", "--one-file-system", f"{self.box.root}/{folder}", f"{self.box.root}/var/lib/ai-stack", f"{self.box.root}/home/ai/.local/share/ai-stack"], check=True)
        self.prepare("none")
        # The home is in the machine's own store, which this one need not have.
        top = f"{self.box.root}{home}/home"
        for place, _, names in os.walk(top):
            for name in names:
                link = f"{self.box.root}/home/ai/{os.path.relpath(f'{place}/{name}', top)}"
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(os.readlink(f"{place}/{name}"), link)
        subprocess.run(["chroot", self.box.root, "chown", "-R", "--no-dereference", "ai:ai", "/home/ai/.config"], check=True)
        self.variant = "home"
        self.power_on()
        # As home-manager does where its rules have changed.
        self.ask("systemd-tmpfiles --user --create home-manager.conf")

    def step_offline(self):
        """nothing was sent: no interface that leads out, no default route, no packet that looked for one in any boot"""
        links = json.loads(self.box.read("ip -json link"))
        outside = [link["ifname"] for link in links if link["ifname"] != "lo" and not link["ifname"].startswith(("podman", "veth"))]
        routes = self.box.read("ip route show default; ip -6 route show default")
        count = self.unsent + self.looked_for_a_route()
        self.expect(not outside and not routes and count == 0, f"{outside}, {routes}, {count} packets")
        # That this counts what is sent.
        self.box.call("exec 3<>/dev/tcp/192.0.2.1/80")
        self.expect(self.looked_for_a_route() > 0, "a packet to 192.0.2.1 was not counted")
        self.unsent -= self.looked_for_a_route()
        return f"interfaces out: 0, default routes: 0, packets without a route in {self.boots} boots: {count}"
