"""The driver's four steps on another process, timed: by_hand.py PID LOCK-MILLISECONDS.

Source: CUDA driver API, "CUDA Checkpointing"; each structure of arguments is 64 bytes, of which the
lock uses the first four.
"""

import ctypes
import json
import sys
import time

STEPS = {
    "gpu_lock": "cuCheckpointProcessLock",
    "gpu_checkpoint": "cuCheckpointProcessCheckpoint",
    "gpu_restore": "cuCheckpointProcessRestore",
    "gpu_unlock": "cuCheckpointProcessUnlock",
}


def main():
    pid, milliseconds = int(sys.argv[1]), int(sys.argv[2])
    library = ctypes.CDLL("libcuda.so.1")
    code = library.cuInit(0)
    if code:
        sys.exit(f"cuInit: CUDA error {code}")
    limit = (ctypes.c_uint * 16)(milliseconds)
    seconds = {}
    for name, function in STEPS.items():
        arguments = ctypes.byref(limit) if name == "gpu_lock" else None
        began = time.monotonic()
        code = getattr(library, function)(pid, arguments)
        seconds[name] = round(time.monotonic() - began, 6)
        if code:
            sys.exit(f"{function}({pid}): CUDA error {code}")
    print(json.dumps(seconds))


main()
