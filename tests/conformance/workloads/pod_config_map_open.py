"""A file of a ConfigMap that is open and mapped while it is captured."""

import mmap

OPTIONS = {
    "pod_only": True,
    "objects": (
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "conformance-open"},
            "data": {"setting": "value that is long enough to be mapped"},
        },
    ),
    "container": {"volumeMounts": [{"name": "config", "mountPath": "/etc/config"}]},
    "spec": {"volumes": [{"name": "config", "configMap": {"name": "conformance-open"}}]},
    "differs": {r"/etc/config/\.\.": "the kubelet names the folder by the time of its making"},
}


def setup():
    file = open("/etc/config/setting", "rb")
    return file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def check(state):
    file, mapped = state
    file.seek(0)
    return {"read": file.read().decode(), "mapped": mapped[:5].decode()}
