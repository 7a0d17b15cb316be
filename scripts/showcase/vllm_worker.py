"""A DynamoGraphDeployment with a vLLM worker, and what is asked of its pods."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from typing import Any

from showcase import cluster, errors, example, pods, setup, vllm_model, vllm_packages

Object = dict[str, Any]
PORT = 8000
INSIDE = "/opt/vllm"
"""Where the pods have the packages and the model."""
PROMPT = "Once upon a time there was a warm start"
TOKENS = 24
MOST_TOKENS = 512
START_SECONDS = 900.0
"""A cold start on two busy cores takes minutes."""


@dataclasses.dataclass(frozen=True)
class Start:
    """How long a container took.

    Attributes:
        ready: seconds from the start of its PID 1 until the API server said Ready.
        completion: seconds from the same moment until the first completion was there.
        tokens: that completion, as token ids, separated by spaces.
        restarts: of the container, by then.
    """

    pod: str
    node: str
    ready: float
    completion: float
    tokens: str
    restarts: int


@dataclasses.dataclass(frozen=True)
class Worker(example.Example):
    """A graph whose one service is vLLM; `parallel` is --tensor-parallel-size."""

    parallel: int = 1

    def deploy(self, *, options: str = "") -> None:
        """Create the DynamoGraphDeployment without any pod: only its checkpoint is made."""
        self.live.apply(self.manifest(options=options), namespace=self.namespace)

    def manifest(self, *, options: str = "") -> Object:
        """The DynamoGraphDeployment."""
        memory = f"{4 + 4 * self.parallel}Gi"
        return {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoGraphDeployment",
            "metadata": {"name": self.name},
            "spec": {
                "services": {
                    "Worker": {
                        "replicas": 0,
                        "extraPodSpec": self._pod(options),
                        "resources": {
                            "requests": {"memory": memory},
                            "limits": {"memory": memory},
                        },
                        "checkpoint": {
                            "enabled": True,
                            "mode": "auto",
                            "identity": {
                                "model": f"{vllm_model.NAME}-llama",
                                "backendFramework": "vllm",
                                "tensorParallelSize": self.parallel,
                                "dtype": "bfloat16",
                                "maxModelLen": MOST_TOKENS,
                            },
                        },
                    }
                }
            },
        }

    def _pod(self, options: str) -> Object:
        command = [
            *("/usr/bin/python3", "-m", "vllm.entrypoints.cli.main", "serve"),
            *(f"{INSIDE}/{vllm_model.NAME}", "--served-model-name", vllm_model.NAME),
            *("--max-model-len", f"{MOST_TOKENS}", "--enforce-eager", "--port", f"{PORT}"),
            *("--tensor-parallel-size", f"{self.parallel}", *options.split()),
        ]
        shared = {"matchLabels": {"app.kubernetes.io/name": f"{self.name}-worker"}}
        return {
            "terminationGracePeriodSeconds": 2,
            # Two replicas, two nodes.
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"labelSelector": shared, "topologyKey": "kubernetes.io/hostname"}
                    ]
                }
            },
            "mainContainer": {
                "image": setup.image("llama"),
                "command": command,
                "env": [{"name": key, "value": text} for key, text in self._environment().items()],
                "ports": [{"name": "http", "containerPort": PORT}],
                "readinessProbe": {
                    "httpGet": {"path": "/health", "port": PORT},
                    "periodSeconds": 1,
                    "timeoutSeconds": 5,
                },
                "volumeMounts": [
                    {"name": "vllm", "mountPath": INSIDE, "readOnly": True},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
            },
            "volumes": [
                {"name": "vllm", "hostPath": {"path": f"/share/{vllm_packages.folder().name}"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            ],
        }

    def _environment(self) -> dict[str, str]:
        made = {
            "HOME": "/tmp",
            "PYTHONPATH": f"{INSIDE}/packages",
            "LD_LIBRARY_PATH": f"{INSIDE}/lib",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # The image has no C++ compiler, and one small function wants to be compiled.
            "TORCH_COMPILE_DISABLE": "1",
        }
        if self.parallel > 1:
            # By itself vLLM wants a NUMA node for each rank.
            made["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(self.parallel)))
        return made

    def measure(self, name: str) -> Start:
        """Watch a new pod until it is Ready and has answered."""
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            asking = executor.submit(self._first_completion, name)
            pod = pods.wait_ready(self.live, self.namespace, name, timeout=START_SECONDS)
            ready = time.time()
            tokens, completion = asking.result()
        start = pods.started_at(self.live, pod)
        return Start(
            pod=name,
            node=pods.node(pod),
            ready=round(ready - start, 3),
            completion=round(completion - start, 3),
            tokens=tokens,
            restarts=restarts(pods.reload(self.live, pod)),
        )

    def _first_completion(self, name: str) -> tuple[str, float]:
        def answered() -> str | None:
            pod = self.live.get(pods.path(self.namespace, name))
            running = pod and pods.container(pod).get("state", {}).get("running")
            return self.complete(pod) if pod and running else None

        tokens: str = cluster.wait_until(
            answered,
            lambda: f"pod {name} completes\n{pods.describe(self.live, self.namespace, name)}",
            timeout=START_SECONDS,
            interval=0.05,
        )
        return tokens, time.time()

    def complete(self, pod: Object) -> str | None:
        """Token ids of the answer to the prompt at temperature 0; None while nobody listens.

        Raises:
            ShowError: the worker answered with an error.
        """
        body = {
            "model": vllm_model.NAME,
            "prompt": PROMPT,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = self.live.pod_request(pod, PORT, "/v1/completions", body, timeout=120)
        if answer.status in (502, 503):
            return None
        if answer.status != 200:
            raise errors.ShowError(
                f"pod {pods.name(pod)} answered HTTP {answer.status}: {answer.text[:500]}"
            )
        return " ".join(map(str, answer.json()["choices"][0]["token_ids"]))


def restarts(pod: Object) -> int:
    return int(pods.container(pod).get("restartCount", 0))
