"""An API server with a scheduler, a kubelet and an agent behind it, for pods that are made there.

A pod that is created gets its states one after the other, as soon as somebody watches it: those
that `story` gives, each a function that changes the pod. A deleted one is gone at once. The webhook
injects pods that name a checkpoint, also in a dry run.
"""

from __future__ import annotations

import copy
import json
import threading

from fakes import api_server, warm

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
STARTED = [{"name": "main", "state": {"running": {}}, "restartCount": 0}]


def scheduled(pod):
    pod["spec"]["nodeName"] = "n1"
    pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]


def running(pod):
    pod["status"]["phase"] = "Running"
    pod["status"]["containerStatuses"] = copy.deepcopy(STARTED)


def ready(pod):
    pod["status"]["conditions"].append({"type": "Ready", "status": "True"})


def told(start):
    """The agent says how it started."""

    def change(pod):
        text = json.dumps({"variant": "", "at": warm.T0, "uuid": "", **start})
        pod["metadata"].setdefault("annotations", {})["nvidia.com/chrek-start"] = text

    return change


def no_room(pod):
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
    ]


def is_warm(pod):
    return "nvidia.com/chrek-checkpoint" in pod["metadata"].get("annotations", {})


def usual(pod):
    """Cold pods start, warm ones are restored."""
    states = [scheduled, running, ready]
    return [*states, told(warm.restored())] if is_warm(pod) else states


class Kubelet(api_server.ApiServer):
    """Use as a context manager.

    Attributes:
        story: gives the states of a pod.
        injects: whether the webhook answers.
        allowed: gives whether somebody may do something with pods.
        cut: after how many states a watch is ended; 0 is never.
    """

    def __init__(self):
        super().__init__()
        self.story = usual
        self.injects = True
        self.allowed = lambda verb: True
        self.cut = 0
        self.states = {}
        self.gone = threading.Condition()
        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"api": self})
        # A client that has seen enough hangs up.
        self._server.handle_error = lambda *_: None
        self.on_create = self._created
        self.on_delete = self._deleted

    def pods(self):
        """Names of pods that are there."""
        here = f"{warm.PODS}/"
        return [path.removeprefix(here) for path in self.objects if path.startswith(here)]

    def made(self):
        """Bodies of the pods that were created, as they were sent."""
        return [
            body
            for method, path, query, body in self.requests
            if (method, path) == ("POST", warm.PODS) and "dryRun" not in query
        ]

    def _created(self, path, body):
        if path == REVIEWS:
            verb = body["spec"]["resourceAttributes"]["verb"]
            body["status"] = {"allowed": self.allowed(verb)}
        if path != warm.PODS:
            return
        # `requests` keeps what was sent.
        self.requests[-1] = (*self.requests[-1][:3], copy.deepcopy(body))
        body["metadata"]["uid"] = f"uid-{body['metadata']['name']}"
        body["status"] = {"phase": "Pending"}
        if is_warm(body) and self.injects:
            main = body["spec"]["containers"][0]
            main["command"] = ["/chrek/chrek-init", "--wait", "20", "--", *main["command"]]
        if "dryRun" not in self.requests[-1][2]:
            self.states[f"{path}/{body['metadata']['name']}"] = list(self.story(body))

    def _deleted(self, path):
        with self.gone:
            self.gone.notify_all()


class _Handler(api_server._Handler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _get(self, path, query, body):
        if not query.get("watch"):
            return super()._get(path, query, body)
        api, name = self.api, query["fieldSelector"].removeprefix("metadata.name=")
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        target, told_ = f"{path}/{name}", 0
        pod = api.objects.get(target)
        if pod and pod["metadata"]["resourceVersion"] != query["resourceVersion"]:
            self._send("MODIFIED", pod)
        while pod and api.states.get(target) and (not api.cut or told_ < api.cut):
            change = api.states[target].pop(0)
            pod = self._versioned(copy.deepcopy(pod))
            change(pod)
            api.objects[target] = pod
            self._send("MODIFIED", pod)
            told_ += 1
        if pod and not api.states.get(target):
            with api.gone:
                seconds = min(int(query["timeoutSeconds"]), 2)
                api.gone.wait_for(lambda: target not in api.objects, timeout=seconds)
            if target not in api.objects:
                self._send("DELETED", pod)
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, kind, item):
        text = json.dumps({"type": kind, "object": item}).encode() + b"\n"
        # In two pieces: a client must not take a part for the whole.
        for piece in (text[:9], text[9:]):
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
