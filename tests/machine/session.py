"""What the steps share: the machine, how it is switched between systems, and what is asked of systemd and Podman in it."""

import json
import subprocess
import time

import machine as debian
from machine import Failed

SERVICES = ("redis", "postgres", "llama-cpp")
# How long a container may take to be healthy on a busy machine of two processors.
PATIENCE = 120


class Session:
    """The machine, and what the steps share."""

    def __init__(self, box, systems, log, restarts):
        self.box, self.systems, self.log, self.restarts = box, systems, log, restarts
        # Packets that looked for a way out, in all boots before this one.
        self.start, self.variant, self.boots, self.unsent = time.monotonic(), None, 0, 0

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

    def end(self):
        """Ends the machine. What it counted is kept."""
        if self.box.leader:
            self.unsent += self.looked_for_a_route()
        self.box.stop()

    def prepare(self, variant):
        """What the machine boots next; it is off."""
        debian.tool("chroot", self.box.root, "/usr/local/sbin/switch", "boot", self.systems[variant])
        self.variant = variant

    def power_on(self):
        self.box.boot()
        self.boots += 1

    def boot(self, variant):
        self.end()
        self.prepare(variant)
        self.power_on()

    def booted(self):
        """Once all that is wanted at boot has been started."""
        self.wait("the boot", lambda: self.box.code("systemctl is-active --quiet multi-user.target") == 0)

    def looked_for_a_route(self):
        """Packets since the boot that there was no way for, also those that containers sent."""
        kinds = "IpOutNoRoutes IpInAddrErrors IpExtInNoRoutes Ip6OutNoRoutes Ip6InNoRoutes"
        return int(self.box.read(f"nstat -asz {kinds} | awk 'NR > 1 {{ s += $2 }} END {{ print s + 0 }}'"))
