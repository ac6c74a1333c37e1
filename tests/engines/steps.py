"""What the rows of the matrix share: commands with a limit of time, steps, and small images in a Nix store."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

WORK = "/srv/work"
REGISTRY = "127.0.0.1:5000"
# No command of a row needs more, on a busy machine.
SECONDS = 60


class Failed(Exception):
    """A step that did not end as it should."""


def check(holds, words):
    """Fails the step with these words unless it holds."""
    if not holds:
        raise Failed(words)


class Row:
    """One engine in one variant: its steps, what each ran, and how each ended."""

    def __init__(self, engine, variant, names):
        self.engine, self.variant, self.names = engine, variant, names
        self.results, self.said, self.ran = {}, {}, []
        self.versions = ""

    @contextlib.contextmanager
    def step(self, name):
        """A step: a failure is printed with all that it ran, and the next steps are tried all the same."""
        assert name in self.names, name
        self.ran, began = [], time.monotonic()
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - whatever it was, this step failed and the row goes on
            self.results[name] = "FAIL"
            what = str(failure) if isinstance(failure, Failed) else f"{type(failure).__name__}: {failure}"
            print(f"FAILED {self.engine}, {self.variant}, step {name}: {what}", file=sys.stderr)
            for line in "\n".join(self.ran).splitlines():
                print(f"    {line}", file=sys.stderr)
        else:
            self.results[name] = self.said.get(name, "ok")
            print(f"ok     {self.engine}, {self.variant}, step {name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
        sys.stderr.flush()

    def note(self, name, words):
        """What the table says of a step that went well."""
        self.said[name] = words

    def run(self, *arguments, user=None, code=0, seconds=SECONDS, env=None):
        """Runs a command and gives back what it printed. `code` is the exit code that is right; None: any."""
        output, status = self.try_run(*arguments, user=user, seconds=seconds, env=env)
        if code is not None:
            check(status == code, f"`{' '.join(arguments)}` ended with {status}, not {code}")
        return output

    def try_run(self, *arguments, user=None, seconds=SECONDS, env=None):
        """What a command printed to its standard output, and its exit code."""
        command, directory = list(arguments), WORK
        if user:
            home, number = f"/home/{user}", str({"ann": 1000, "ben": 1001}[user])
            own = [f"HOME={home}", f"USER={user}", f"XDG_RUNTIME_DIR=/run/user/{number}"]
            command = ["setpriv", "--reuid", number, "--regid", number, "--init-groups", "env", *own, *command]
            directory = home
        try:
            done = subprocess.run(
                command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False,
                env={**os.environ, **(env or {})},
            )
            out, err, status = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as late:
            out, err, status = late.stdout or b"", late.stderr or b"", f"no answer within {seconds} s"
        text = lambda data: data.decode(errors="replace")
        self.ran.append(f"{'' if not user else user + ' '}$ {' '.join(arguments)}")
        self.ran.extend(shortened(part.rstrip()) for part in (text(out), text(err)) if part.strip())
        self.ran.append(f"[{status}]")
        return text(out), status

    def json(self, *arguments, **options):
        """The same, read as JSON."""
        return json.loads(self.run(*arguments, **options))

    def finish(self):
        """Hands the row over to what makes the table of it."""
        with open("/srv/row.json", "w", encoding="utf-8") as file:
            json.dump({"versions": self.versions, "results": self.results}, file)
        if self.results.get("set up") == "FAIL":
            sys.exit(1)
        missing = [name for name in self.names if name not in self.results]
        check(not missing, f"{self.engine}, {self.variant}: steps that were not run: {missing}")
        sys.exit(1 if "FAIL" in self.results.values() else 0)


def shortened(text):
    """The ends of a long text."""
    lines = text.splitlines()
    return text if len(lines) <= 60 else "\n".join([*lines[:20], f"… {len(lines) - 50} lines …", *lines[-30:]])


def sha256(data):
    """A digest as the registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add_to_store(row, path):
    """Adds a file or folder to the Nix store, which then knows its hash; its path there."""
    return row.run("nix-store", "--add-fixed", "--recursive", "sha256", path).strip()


def write(path, text):
    """Writes a file with its parent folders."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Stack:
    """An image with a tool, a text and a model, built by windlass from store paths, as a stack in the Nix store."""

    def __init__(self, row, name, version, size=64 * 4096):
        folder = f"{WORK}/{name}-{version}"
        self.text = f"{name}, version {version}"
        tool = add_to_store(row, tool_folder())
        write(f"{folder}/text/share/text", self.text + "\n")
        os.makedirs(f"{folder}/model", exist_ok=True)
        # Like weights: bytes that do not compress, the same in every version.
        with open(f"{folder}/model/tiny.gguf", "wb") as file:
            blocks = (hashlib.sha512(f"{name} {n}".encode()).digest() for n in range(size // 64))
            weights = b"GGUF\x03\0\0\0" + b"\0" * 16 + b"".join(blocks)
            file.write(weights)
        self.weights = hashlib.sha256(weights).hexdigest()
        text, model = add_to_store(row, f"{folder}/text"), add_to_store(row, f"{folder}/model")
        self.command = [f"{tool}/bin/busybox", "cat", f"{text}/share/text"]
        spec = {
            "kind": "stack",
            "name": name,
            "images": [{
                "name": name, "tag": "1", "content": {"deps": [tool, text]}, "config": {"Cmd": self.command},
                "models": [{"spec": {"name": f"{name}-model", "files": {"tiny.gguf": f"{model}/tiny.gguf"}}}],
            }],
        }
        write(f"{folder}/spec.json", json.dumps(spec))
        row.run("windlass", "build", f"{folder}/spec.json", "--output", f"{folder}/stack")
        self.path = add_to_store(row, f"{folder}/stack")
        with open(f"{self.path}/stack.json", encoding="utf-8") as file:
            stack = json.load(file)
        image = next(image for image in stack["images"] if image["name"] == name)
        self.tag, self.digest = image["ref"], image["digest"]
        with open(f"{self.path}/images/{name}/image.json", encoding="utf-8") as file:
            self.config = json.load(file)["platforms"][0]["configDigest"]
        self.names = {self.tag: self.digest} | {model["ref"]: model["digest"] for model in stack["models"]}
        self.model = f"{name}-model"
        self.by_digest = f"{self.tag.rsplit(':', 1)[0]}@{self.digest}"
        self.directory = f"{self.path}/images/{name}"
        self.expected = self.text + "\n"


class Redis:
    """An image of Debian's redis with the libraries that it needs, from the Nix store."""

    def __init__(self, row):
        folder = f"{WORK}/redis"
        for name in ("bin", "lib"):
            os.makedirs(f"{folder}/{name}")
        # The server and the check of its files are one program, which goes by the name that it is called by.
        programs = {"redis-server": "redis-check-rdb", "redis-cli": "redis-cli"}
        for name, program in programs.items():
            shutil.copy(f"/usr/bin/{program}", f"{folder}/bin/{name}")
            for line in row.run("ldd", f"/usr/bin/{program}").splitlines():
                library = next((word for word in line.split() if word.startswith("/")), None)
                if library:
                    shutil.copy(library, f"{folder}/lib/{os.path.basename(library)}")
        loader = next(name for name in os.listdir(f"{folder}/lib") if name.startswith("ld-linux"))
        path = add_to_store(row, folder)
        self.start = [f"{path}/lib/{loader}", "--library-path", f"{path}/lib"]
        server = [*self.start, f"{path}/bin/redis-server", "--port", "0", "--unixsocket", "/redis.sock", "--save", "", "--dir", "/"]
        self.client = [*self.start, f"{path}/bin/redis-cli", "-s", "/redis.sock"]
        spec = {"kind": "image", "name": "redis", "tag": "1", "content": {"deps": [path]}, "config": {"Cmd": server}}
        write(f"{WORK}/redis.json", json.dumps(spec))
        row.run("windlass", "build", f"{WORK}/redis.json", "--output", f"{WORK}/redis-image")
        self.directory = add_to_store(row, f"{WORK}/redis-image")
        with open(f"{self.directory}/image.json", encoding="utf-8") as file:
            self.tag = json.load(file)["ref"]

    def answers(self, ask):
        """What it is given, it gives back. `ask` runs a command in its container and gives what that printed."""
        wait_for(lambda: ask(*self.client, "PING").strip() == "PONG", "redis in its container")
        check(ask(*self.client, "SET", "crane", "hook").strip() == "OK", "redis took nothing")
        found = ask(*self.client, "GET", "crane").strip()
        check(found == "hook", f"redis gave {found!r} back")


def tool_folder():
    """A folder with a program that needs no other."""
    folder = f"{WORK}/tool/bin"
    if not os.path.exists(f"{folder}/busybox"):
        os.makedirs(folder)
        shutil.copy(shutil.which("busybox"), f"{folder}/busybox")
    return os.path.dirname(folder)


def start_registry():
    """A registry on the loopback of this row, which ends with it."""
    write(f"{WORK}/registry.yml", f"""version: 0.1
storage: {{ filesystem: {{ rootdirectory: {WORK}/registry }} }}
http: {{ addr: '{REGISTRY}' }}
""")
    with open(f"{WORK}/registry.log", "wb") as log:
        subprocess.Popen(["docker-registry", "serve", f"{WORK}/registry.yml"], stdout=log, stderr=log)
    wait_for(lambda: urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=5), "the registry")


def manifest_of(name, reference):
    """The bytes of the manifest that the registry has under that name."""
    kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{name}/manifests/{reference}", headers={"Accept": kinds})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def wait_for(ready, what, seconds=30):
    """Asks until it answers."""
    last = None
    for _ in range(seconds * 10):
        try:
            if ready() is not False:
                return
        except Exception as failure:  # noqa: BLE001 - not yet
            last = failure
        time.sleep(0.1)
    raise Failed(f"{what} did not answer within {seconds} s: {last}")
