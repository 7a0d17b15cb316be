"""Files of a ConfigMap, read again: they are the new pod's."""

import os

OPTIONS = {
    "pod_only": True,
    "objects": (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "conformance"},
            "data": {"setting": "value"},
        },
    ),
    "container": {"volumeMounts": [{"name": "config", "mountPath": "/etc/config"}]},
    "spec": {"volumes": [{"name": "config", "configMap": {"name": "conformance"}}]},
}


def setup():
    return None


def check(state):
    with open("/etc/config/setting") as file:
        return {
            "setting": file.read(),
            "names": [n for n in os.listdir("/etc/config") if n[:2] != ".."],
        }
