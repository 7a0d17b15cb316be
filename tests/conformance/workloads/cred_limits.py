"""Resource limits, soft and hard."""

import resource


def setup():
    for limit, value in (
        (resource.RLIMIT_NOFILE, (200, 300)),
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_STACK, (1 << 22, 1 << 23)),
        (resource.RLIMIT_CPU, (5000, 6000)),
    ):
        resource.setrlimit(limit, value)


def check(state):
    names = ("NOFILE", "CORE", "STACK", "CPU")
    return {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}
