"""What engines that the kubelet speaks to have in common: the runtime that starts their containers in here, and a pod."""

import itertools
import json
import os

from steps import WORK, wait_for, write

# A pod has the network of its host, which has a loopback alone.
LINUX = {"security_context": {"namespace_options": {"network": 2, "pid": 1}}}
PODS = itertools.count(1)

# Control groups have no controllers in here, and no process may be made dearer to the killer of processes.
RUNTIME = """#!/usr/bin/env python3
import json, os, sys
if "--bundle" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["process"].pop("oomScoreAdj", None)
    config["linux"].pop("resources", None)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""


def printed_in_pod(crictl, stack, image):
    """The lines that a container of this image prints in a pod of its own: its text, and the SHA-256 of its model."""
    name = f"pod-{next(PODS)}"
    logs = f"{WORK}/logs-{name}"
    os.makedirs(logs)
    pod = {"metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 1}, "log_directory": logs, "linux": LINUX}
    tool, _, text = stack.command
    container = {
        "metadata": {"name": "app"}, "image": {"image": image}, "log_path": "app.log", "linux": LINUX,
        "command": [tool, "sh", "-c", f"{tool} cat {text}; {tool} sha256sum /models/tiny.gguf"],
    }
    write(f"{logs}/pod.json", json.dumps(pod))
    write(f"{logs}/container.json", json.dumps(container))
    sandbox = crictl("runp", f"{logs}/pod.json").strip()
    made = crictl("create", "--no-pull", sandbox, f"{logs}/container.json", f"{logs}/pod.json").strip()
    crictl("start", made)
    wait_for(lambda: json.loads(crictl("inspect", made))["status"]["state"] == "CONTAINER_EXITED", "the end of the container")
    return crictl("logs", made).splitlines()
