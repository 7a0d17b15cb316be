"""`python3 -m dynamo.vllm`: the example server under the command line of the guides.

Objects that are written for NVIDIA's image run unchanged with this one: it takes the engine's
options and serves a small model of random weights, made at the first start, whatever `--model`
says. Like the published worker it says that it may be captured by writing the file that
DYN_READY_FOR_CHECKPOINT_FILE names.
"""

import argparse
import http.client
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import server

LAYERS = 1
STATE_PORT = 8001


def make_model() -> pathlib.Path:
    path = pathlib.Path(tempfile.gettempdir()) / "model.gguf"
    maker = pathlib.Path(server.__file__).with_name("make_model.py")
    subprocess.run([sys.executable, maker, path, f"--layers={LAYERS}"], check=True)  # noqa: S603
    return path


def announce(file: pathlib.Path) -> None:
    """Write the ready file once the server has warmed up."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", STATE_PORT, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                break
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    # Nothing of this conversation may be in the capture.
    file.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    options, others = parser.parse_known_args()
    print(f"serving random weights as {options.model}; ignored: {others}", file=sys.stderr)
    ready = os.environ.get("DYN_READY_FOR_CHECKPOINT_FILE")
    if ready:
        threading.Thread(target=announce, args=[pathlib.Path(ready)], daemon=True).start()
    path = make_model()
    sys.argv = ["server.py", f"--model={path}", f"--served-model-name={options.model}"]
    sys.argv += ["--context=512", "--warmup-tokens=16"]
    server.main()


if __name__ == "__main__":
    main()
