"""A subPath of an emptyDir, which is not captured, with the directory there."""

import os

OPTIONS = {
    "pod_only": True,
    "container": {"volumeMounts": [{"name": "parts", "mountPath": "/part", "subPath": "inner"}]},
    "spec": {"volumes": [{"name": "parts", "emptyDir": {}}]},
}


def setup():
    return os.open("/part", os.O_DIRECTORY)


def check(state):
    return {"same": os.fstat(state).st_ino == os.stat("/part").st_ino}
