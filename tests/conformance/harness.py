"""Runs in the container, as `python3 -c`: the workload in a process of its own, asked over HTTP.

The workload's process has what `setup` gives it, its standard streams and two pipes; nothing else.
`/ready` is 200 once the state is made, `/health` only after a POST to `/release`: the test looks at
everything in between, and the capture begins with readiness.
"""

import http.server
import json
import os
import socketserver
import sys
import threading
import traceback

PORT = 8001


def work(requests, answers, source):
    """The workload's process."""
    scope = {"__name__": "workload"}
    exec(compile(source, "workload", "exec"), scope)  # noqa: S102 - that is what it is for
    try:
        state = scope["setup"]()
        answers.write("made\n")
    except BaseException:
        answers.write(json.dumps({"failed": traceback.format_exc()}) + "\n")
    answers.flush()
    for _ in requests:
        try:
            answer = scope["check"](state)
        except BaseException:
            answer = {"failed": traceback.format_exc()}
        answers.write(json.dumps(answer, sort_keys=True) + "\n")
        answers.flush()


def start(source):
    """Fork the workload; returns the ends of its pipes."""
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    if os.fork() == 0:
        os.close(request_write)
        os.close(answer_read)
        work(os.fdopen(request_read), os.fdopen(answer_write, "w"), source)
        os._exit(0)
    os.close(request_read)
    os.close(answer_write)
    return os.fdopen(request_write, "w"), os.fdopen(answer_read)


def serve(requests, answers):
    """Answer over HTTP until ended."""
    made, released = [], []

    def read():
        made.append(answers.readline().strip())
        print("workload", made[0] or "ended", flush=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 1  # of whoever connects and asks nothing

        def do_GET(self):
            if self.path == "/ready":
                if made:
                    reader.join()
                self.answer(200 if made else 503, made[0] if made else "")
            elif self.path == "/health":
                self.answer(200 if released else 503, "")
            else:
                requests.write("check\n")
                requests.flush()
                self.answer(200, answers.readline())

        def do_POST(self):
            released.append(True)
            self.answer(200, "")

        def answer(self, code, text):
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(http.server.HTTPServer):
        def server_bind(self):
            # Without its question for the host's full name, which can take seconds.
            socketserver.TCPServer.server_bind(self)

    # One request at a time: nothing of an answer is left when the next one is asked.
    Server(("", PORT), Handler).serve_forever()


if __name__ == "__main__":
    serve(*start(sys.argv[1]))
