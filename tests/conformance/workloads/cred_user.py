"""User, groups, capabilities and no_new_privs, as each process sees its own."""

import os

OPTIONS = {"groups": (3001, 3002)}


def setup():
    return None


def check(state):
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file]
    kept = {"CapEff:", "CapPrm:", "CapInh:", "CapAmb:", "CapBnd:", "NoNewPrivs:", "Seccomp:"}
    return {
        "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
        "status": {words[0]: words[1] for words in lines if words[0] in kept},
    }
