"""A server that takes five seconds to start, then counts its requests: for `chrek run`."""

import http.server
import secrets
import time


class Counter(http.server.BaseHTTPRequestHandler):
    """Answers with the name that the process gave itself at its start, and a count."""

    name = secrets.token_hex(4)
    count = 0

    def do_GET(self) -> None:
        """Count this one."""
        Counter.count += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.name} {self.count}\n".encode())

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is for chrek's words."""


time.sleep(5)  # This is where a real one loads its model.
server = http.server.HTTPServer(("127.0.0.1", 8123), Counter)
print("ready", flush=True)
server.serve_forever()
