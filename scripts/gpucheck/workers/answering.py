"""What every worker does once its data is on the GPU: it answers.

The machine's own Python runs the workers, 3.10 or later, with nothing of chrek to import.

  check      {"verified": true, "wrong": [], ...}: every byte is what it was, and work goes on
  bandwidth  {"host_to_device_pinned": 50.1, ...} in GB/s (the driver worker alone)
"""

import json
import socket
import sys
import time
import traceback

OPTIONS = json.loads(sys.argv[1])
"""bytes: of device memory; port: 0 takes any; device: of torch, cuda or cpu."""
MIB = 1 << 20
CHUNK = 64 * MIB


def serve(facts, answers):
    """Tell that the worker is ready, then answer each connection's one line."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", OPTIONS["port"]))
    server.listen(8)
    facts = {**facts, "port": server.getsockname()[1]}
    print("worker ready " + json.dumps(facts), flush=True)
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream:
            began = time.monotonic()
            try:
                answer = answers[stream.readline().strip()]()
            except Exception:
                answer = {"verified": False, "wrong": [traceback.format_exc()[-2000:]]}
            answer["seconds"] = round(time.monotonic() - began, 3)
            stream.write(json.dumps(answer) + "\n")
