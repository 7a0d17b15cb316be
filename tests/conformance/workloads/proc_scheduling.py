"""Niceness and scheduling policy."""

import os


def setup():
    os.nice(7)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def check(state):
    return {"nice": os.nice(0), "policy": os.sched_getscheduler(0)}
