"""Files of the downward API: what they say is of the new pod, also by an open descriptor."""

import os

OPTIONS = {
    "pod_only": True,
    "container": {"volumeMounts": [{"name": "about", "mountPath": "/etc/about"}]},
    "spec": {
        "volumes": [
            {
                "name": "about",
                "downwardAPI": {
                    "items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]
                },
            }
        ]
    },
    "differs": {r"/etc/about/\.\.": "the kubelet names the folder by the time of its making"},
}


def setup():
    os.chdir("/etc/about/..data")
    return open("/etc/about/name")


def check(state):
    state.seek(0)
    with open("/etc/about/name") as by_path, open("name") as by_directory:
        return {
            "held": state.read(),
            "fresh": by_path.read(),
            "near": by_directory.read(),
            "here": os.uname().nodename,
        }


def compare(before, after):
    for seen in (before, after):
        assert seen["held"] == seen["fresh"] == seen["near"] == seen["here"]
