"""The example stack in Docker and in containerd: its model is served in there, and answers. `./dev engines --full` makes the bundle of it.

    served.py served docker|containerd    inside of a host that enter.sh has made
"""

import json
import os
import sys

import containerd_load
import docker
from steps import WORK, Row, check, wait_for

BUNDLE = "/src/target/engines-bundle"
ASK = """
import json, urllib.request
asked = {"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0}
request = urllib.request.Request("http://127.0.0.1:8080/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["text"])
"""


def in_docker(row):
    """Starts the server in Docker: its process."""
    docker.start(row, "overlay2")
    row.run("windlass", "load", BUNDLE, "--into", "docker", seconds=200)
    names = row.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    tag = next(name for name in names if "/llama-cpp:" in name)
    row.run("docker", "run", "--detach", "--name", "served", "--pull=never", "--network=none", tag)
    return row.run("docker", "inspect", "--format", "{{.State.Pid}}", "served").strip()


def in_containerd(row):
    """Starts the server in containerd: its process. Its network has nothing that is up."""
    host = containerd_load.Host(row, "ext4")
    host.start()
    host.windlass("load", BUNDLE, seconds=200)
    tag = next(name for name in host.images() if "/llama-cpp:" in name)
    host.ctr("run", "--detach", "--cgroup", "/ctr/test", "--cpu-shares", "0", tag, "served")
    process = next(line.split()[1] for line in host.ctr("task", "list").splitlines() if line.startswith("served "))
    row.run("nsenter", "--target", process, "--net", "ip", "link", "set", "lo", "up")
    return process


def main(engine, variant):
    row = Row(engine, variant, ("load", "answer"))
    with row.step("load"):
        process = {"docker": in_docker, "containerd": in_containerd}[variant](row)
    if row.results["load"] == "ok":
        with row.step("answer"):
            said = []

            def answers():
                said[:] = row.try_run("nsenter", "--target", process, "--net", "python3", "-c", ASK)
                return said[1] == 0

            wait_for(answers, "the server of the model", 90)
            check("Paris" in said[0], f"the model says {said[0]!r}")
            row.note("answer", json.dumps(said[0].strip()))
    row.finish()


if __name__ == "__main__":
    os.makedirs(WORK)
    main(*sys.argv[1:])
