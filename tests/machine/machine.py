"""A Debian that boots: its root file system, systemd in a container of systemd-nspawn, and commands inside."""

import glob
import os
import shutil
import subprocess
import sys
import time

PACKAGES = """systemd-sysv systemd dbus udev iproute2 nix-bin podman skopeo runc crun netavark aardvark-dns uidmap passt
 dbus-user-session libpam-systemd nftables catatonit fuse-overlayfs python3 jq procps ca-certificates curl""".split()

NIX_CONF = """experimental-features = nix-command flakes
build-users-group =
sandbox = false
substitute = false
"""

# No control group of this machine limits anything: nspawn hands on none of the controllers.
CONTAINERS_CONF = """[containers]
pids_limit = 0
"""

# What NixOS does before systemd starts, at its first units here.
ACTIVATION = """[Unit]
Description=Activation of the system
DefaultDependencies=no
RequiresMountsFor=/nix/store /var
After=systemd-remount-fs.service
Before=sysinit.target systemd-tmpfiles-setup.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e /nix/var/nix/profiles/system/activate

[Install]
WantedBy=sysinit.target
"""

# As NixOS' target of this name: what is wanted by it is started again by a switch.
REACTIVATION = """[Unit]
Description=Reactivate what is part of booting
RefuseManualStart=no
"""

# A user's systemd wants this from its session, and logind of systemd 262 makes no session in a container like this one: its
# io.systemd.Login.CreateSession says InvalidParameter to pam_systemd.
USER = """[Service]
Environment=XDG_RUNTIME_DIR=/run/user/%i
"""

KEYS = """d /run/keys 0711 root root - -
f /run/keys/postgres-password 0400 root root - a-secret
f /run/keys/ai-password 0400 ai ai - a-secret
"""


class Failed(Exception):
    """A command inside that did not end with 0."""


def tool(*words, **options):
    return subprocess.run(words, check=True, **options)


def make_root(root, suite, mirror, log):
    """A Debian of this suite below `root`, made once. Whether it was made now."""
    if os.path.exists(f"{root}/etc/made"):
        return False
    tool("rm", "-rf", "--one-file-system", root)
    os.makedirs(os.path.dirname(root), exist_ok=True)
    options = ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    options += [f"--aptopt={file}" for file in sorted(glob.glob("/etc/apt/apt.conf.d/99*"))]
    options += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "doc", "locale")]
    # What it mounts goes with it, also when it is killed.
    words = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    words += ["mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", *options, f"--include={','.join(PACKAGES)}", suite, root, mirror]
    if subprocess.run(words, stdout=log, stderr=log).returncode != 0:
        sys.exit(f"mmdebstrap could not make {root} from {mirror}; see {log.name}, then run this again")
    tool("chroot", root, "groupadd", "--gid=1500", "ai")
    tool("chroot", root, "useradd", "--uid=1500", "--gid=ai", "--create-home", "--shell=/bin/bash", "ai")
    for file in ("subuid", "subgid"):
        with open(f"{root}/etc/{file}", "w") as out:
            out.write("ai:200000:65536\n")
    open(f"{root}/etc/made", "w").close()
    return True


def set_up(root):
    """What a machine has beside Debian's packages and its system."""
    write = {
        "etc/nix/nix.conf": NIX_CONF,
        "etc/containers/containers.conf.d/machine.conf": CONTAINERS_CONF,
        "etc/systemd/system/machine-activation.service": ACTIVATION,
        "etc/systemd/system/sysinit-reactivation.target": REACTIVATION,
        "etc/systemd/system/user@.service.d/machine.conf": USER,
        "etc/tmpfiles.d/machine-keys.conf": KEYS,
        "etc/fstab": "/nix/store /nix/store none bind,ro 0 0\n",
        "etc/hostname": "machine\n",
    }
    for name, text in write.items():
        os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
        with open(f"{root}/{name}", "w") as out:
            out.write(text)
    os.makedirs(f"{root}/nix/store", exist_ok=True)
    shutil.copy(f"{os.path.dirname(os.path.abspath(__file__))}/switch.py", f"{root}/usr/local/sbin/switch")
    os.chmod(f"{root}/usr/local/sbin/switch", 0o755)
    wants = f"{root}/etc/systemd/system/sysinit.target.wants"
    os.makedirs(wants, exist_ok=True)
    link = f"{wants}/machine-activation.service"
    if not os.path.lexists(link):
        os.symlink("../machine-activation.service", link)


def copy_system(root, system, log):
    """The system with all that it needs, to the Nix store below `root`; kept from the collector there."""
    tool("nix", "copy", "--no-check-sigs", "--to", root, system, stdout=log, stderr=log)
    # Under its own name: what is in /nix/var/nix/profiles is what is kept.
    folder = f"{root}/nix/var/nix/gcroots/machine"
    os.makedirs(folder, exist_ok=True)
    link = f"{folder}/{os.path.basename(system)}"
    if not os.path.lexists(link):
        os.symlink(system, link)


def child(process):
    """The first child of a process."""
    with open(f"/proc/{process}/task/{process}/children") as file:
        return file.read().split()[0]


class Machine:
    """One that was booted."""

    def __init__(self, root, name):
        self.root, self.name, self.process, self.leader = root, name, None, None

    def boot(self):
        """Starts systemd, and waits until it takes commands."""
        unified = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
        self.group = f"{unified}/{self.name}.{os.getpid()}"
        os.makedirs(self.group, exist_ok=True)

        def enter():
            with open(f"{self.group}/cgroup.procs", "w") as out:
                out.write(str(os.getpid()))

        self.console = open(f"{self.root}.console", "w")
        self.process = subprocess.Popen(
            [
                # What runs inside goes when this does, also when this is killed.
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
                *("systemd-nspawn", f"--directory={self.root}", f"--machine={self.name}", "--boot", "--private-network"),
                *("--register=no", "--keep-unit", "--capability=all", "--system-call-filter=@keyring bpf @mount @clock"),
                *("--bind=/dev/fuse", "--bind=/dev/net/tun", "--resolv-conf=off", "--timezone=off", "--console=read-only"),
                *("--setenv=SYSTEMD_LOG_TARGET=journal", "systemd.show_status=0"),
            ],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "UNIFIED_CGROUP_HIERARCHY": "1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"},
            preexec_fn=enter,
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until = time.monotonic() + 60
        while True:
            if self.process.poll() is not None:
                raise Failed(f"systemd-nspawn ended with {self.process.returncode}; see {self.root}.console")
            try:
                self.leader = child(child(self.process.pid))
                if os.path.realpath(f"/proc/{self.leader}/exe").endswith("/systemd") and self.code("systemctl is-system-running") in (0, 1):
                    if self.read("systemctl is-system-running || true") not in ("offline", "unknown", ""):
                        return
            except (IndexError, FileNotFoundError, ProcessLookupError):
                pass
            if time.monotonic() > until:
                raise Failed("systemd does not answer")
            time.sleep(0.1)

    def _words(self, user=None):
        enter = ["nsenter", "--target", self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        variables = ["TERM=dumb", "PATH=/nix/var/nix/profiles/system/sw/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        if user is None:
            return [*enter, "env", "-i", "HOME=/root", *variables]
        drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*enter, *drop, "env", "-i", f"--chdir=/home/{user}", f"HOME=/home/{user}", f"USER={user}", "XDG_RUNTIME_DIR=/run/user/1500", *variables]

    def call(self, command, user=None, limit=300):
        """Runs a command of a shell inside."""
        if self.leader is None:
            raise Failed("the machine is off")
        words = [*self._words(user), "timeout", str(limit), "bash", "-c", command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")

    def start(self, command):
        """The same, while it runs."""
        return subprocess.Popen([*self._words(), "timeout", "300", "bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def code(self, command, user=None, limit=300):
        return self.call(command, user, limit).returncode

    def read(self, command, user=None, limit=300):
        """What the command prints; it must end with 0."""
        done = self.call(command, user, limit)
        if done.returncode != 0:
            raise Failed(f"{command}: ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout.strip()

    def write(self, path, text):
        """Overwrites a file inside, as it is there: also on a tmpfs."""
        words = [*self._words(), "sh", "-c", f"cat >{path}"]
        subprocess.run(words, input=text, text=True, check=True)

    def stop(self):
        """Ends it, and what is left of it; the root file system stays."""
        if self.process is None:
            return
        if self.process.poll() is None and self.leader:
            # SIGRTMIN+4: power off.
            subprocess.run(["kill", "-s", "RTMIN+4", self.leader], check=False)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                pass
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.console.close()
        self.process = self.leader = None
        for folder, _, _ in os.walk(self.group, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass
