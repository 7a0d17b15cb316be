"""A root file system that cannot be written, with no writable /tmp."""

OPTIONS = {"pod_only": True, "read_only_root": True}


def setup():
    return bytearray(b"memory")


def check(state):
    try:
        with open("/tmp/probe", "w"):
            written = True
    except OSError:
        written = False
    return {"memory": state.decode(), "written": written}
