"""Variables of the container, as the worker has them."""

import os

OPTIONS = {"pod_only": True, "env": {"GREETING": "hello", "EMPTY": ""}}


def setup():
    return None


def check(state):
    return {"greeting": os.environ["GREETING"], "empty": os.environ["EMPTY"]}
