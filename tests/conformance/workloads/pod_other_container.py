"""An emptyDir that another container shares: it is never overwritten, the open file is there."""

import os

OPTIONS = {
    "pod_only": True,
    "container": {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
    "spec": {
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [
            {
                "name": "filler",
                "image": "IMAGE",
                "command": ["sh", "-c", "echo filled > /shared/filled"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}


def setup():
    fd = os.open("/shared/made", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"made")
    return fd


def check(state):
    with open("/shared/filled") as file:
        filled = file.read().strip()
    return {"made": os.pread(state, 10, 0).decode(), "filled": filled}
