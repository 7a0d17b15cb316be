"""An S3 server and a registry as pods: real ones, of which nothing lasts longer than their pods."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from devcluster import cache, images, tools
from showcase import cluster, commands, setup

Object = dict[str, Any]

S3_IMAGE = "localhost/chrek-test-s3:1"
REGISTRY_IMAGE = "localhost/chrek-test-registry:1"
S3_PORT = 7070
REGISTRY_PORT = 5000
KEY_ID = "the-key-id"
SECRET_KEY = "the-secret-key"
USER, PASSWORD = "me", "hunter2"
USERS = "me:$2b$04$sO1Yhh4UCguhYjGuikVL4OK.H.1f17xn44hC/hhYoFmwY0gkQwEqO\n"
REGISTRY_SETTINGS = {
    "version": 0.1,
    "storage": {"filesystem": {"rootdirectory": "/data"}, "delete": {"enabled": True}},
    "auth": {"htpasswd": {"realm": "chrek", "path": "/settings/users"}},
    "log": {"accesslog": {"disabled": True}},
}


def load(live: cluster.Cluster) -> None:
    """Give the nodes both images."""
    assert live.own
    where = cache.Cache.from_environment()
    programs = {
        S3_IMAGE: tools.s3_server(where),
        REGISTRY_IMAGE: where.node_root / "usr/bin/docker-registry",
    }
    with tempfile.TemporaryDirectory() as folder:
        for reference, program in programs.items():
            archive = Path(folder) / f"{program.name}.tar"
            files = {f"bin/{program.name}": (program.read_bytes(), 0o755)}
            files |= {
                name: ((where.node_root / name).read_bytes(), 0o755) for name in _libraries(program)
            }
            images.write(archive, reference, files, [f"/bin/{program.name}"])
            commands.stream([setup.SCRIPTS / "cluster", "load", archive])


def _libraries(program: Path) -> list[str]:
    """What a program is linked with, without the leading slash; nothing when it is static."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return sorted({word[1:] for word in done.stdout.split() if word.startswith("/")})


def s3(bucket: str, *, port: int = S3_PORT, tls: bool = False) -> list[Object]:
    """An S3 server with one bucket, and the Secret with its credentials.

    Args:
        bucket: its name.
        port: where it listens.
        tls: speak TLS with what the Secret `tls` holds.
    """
    certificate = ["--cert", "/tls/tls.crt", "--key", "/tls/tls.key"] if tls else []
    container = {
        "name": "s3",
        "image": S3_IMAGE,
        "args": ["--port", f":{port}", *certificate, "posix", "/data"],
        "env": [
            {"name": "ROOT_ACCESS_KEY_ID", "value": KEY_ID},
            {"name": "ROOT_SECRET_ACCESS_KEY", "value": SECRET_KEY},
        ],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            # The kubelet makes the folder of a subPath, and a bucket is a folder.
            {"name": "data", "mountPath": "/bucket", "subPath": bucket},
        ],
    }
    volumes = [{"name": "data", "emptyDir": {}}]
    return [
        *_served("s3", container, port, volumes=volumes, tls=tls),
        secret(
            "s3-creds",
            {
                "AWS_ACCESS_KEY_ID": KEY_ID,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_REGION": "us-east-1",
            },
        ),
    ]


def registry(host: str, *, port: int = REGISTRY_PORT, tls: bool = False) -> list[Object]:
    """A registry that wants a password and allows deletion, and the Secret to log in with.

    Args:
        host: under which it will be asked.
        port: where it listens.
        tls: speak TLS with what the Secret `tls` holds.
    """
    container = {
        "name": "registry",
        "image": REGISTRY_IMAGE,
        "args": ["serve", "/settings/config.yml"],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "settings", "mountPath": "/settings"},
        ],
    }
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    volumes = [
        {"name": "data", "emptyDir": {}},
        {"name": "settings", "secret": {"secretName": "registry-settings"}},
    ]
    certificate = {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"}
    http = {"addr": f":{port}", **({"tls": certificate} if tls else {})}
    settings = {"config.yml": json.dumps({**REGISTRY_SETTINGS, "http": http}), "users": USERS}
    docker = {".dockerconfigjson": json.dumps({"auths": {host: {"auth": login}}})}
    return [
        secret("registry-settings", settings),
        *_served("registry", container, port, volumes=volumes, tls=tls),
        secret("registry-creds", docker, "kubernetes.io/dockerconfigjson"),
    ]


def _served(
    name: str, container: Object, port: int, *, volumes: list[Object], tls: bool
) -> list[Object]:
    labels = {"chrek.test/server": name}
    ready = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    if tls:
        container["volumeMounts"].append({"name": "tls", "mountPath": "/tls"})
        volumes.append({"name": "tls", "secret": {"secretName": "tls"}})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "containers": [{**container, "readinessProbe": ready}],
            "volumes": volumes,
            "terminationGracePeriodSeconds": 1,
        },
    }
    return [pod, service(name, port)]


def service(name: str, port: int) -> Object:
    """What the server is reached by."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"chrek.test/server": name}, "ports": [{"port": port}]},
    }


def secret(name: str, data: dict[str, str], kind: str = "Opaque") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": kind,
        "stringData": data,
    }
