"""The token of the service account, held open: it is the new pod's that is read from it."""

import base64
import json
import os

PATH = "/var/run/secrets/kubernetes.io/serviceaccount/token"
OPTIONS = {
    "pod_only": True,
    "spec": {"automountServiceAccountToken": True},
    "differs": {r"/serviceaccount/?\.\.": "the kubelet names the folder by the time of its making"},
}


def pod_of(token):
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims["kubernetes.io"]["pod"]["name"]


def setup():
    return open(PATH)


def check(state):
    state.seek(0)
    with open(PATH) as file:
        fresh = file.read()
    return {"held": pod_of(state.read()), "fresh": pod_of(fresh), "here": os.uname().nodename}


def compare(before, after):
    for seen in (before, after):
        assert seen["held"] == seen["fresh"] == seen["here"]
    assert before["here"] != after["here"]
