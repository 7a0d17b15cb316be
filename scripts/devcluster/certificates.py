"""The cluster's keys and certificates, and the kubeconfigs that hold them."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from devcluster import addresses, cache, commands

VALID_DAYS = 365
ADMIN = "admin"
KUBELET_CLIENT = "kubelet-client"
API_SERVER = "apiserver"
CONTROLLER_MANAGER = "controller-manager"
SCHEDULER = "scheduler"
PROXY = "proxy"

# name → (common name, organization)
_USERS = {
    ADMIN: ("admin", "system:masters"),
    KUBELET_CLIENT: ("kube-apiserver-kubelet-client", "system:masters"),
    CONTROLLER_MANAGER: ("system:kube-controller-manager", ""),
    SCHEDULER: ("system:kube-scheduler", ""),
    PROXY: ("system:kube-proxy", ""),
}
_WITHOUT_KUBECONFIG = {KUBELET_CLIENT}


def ensure(where: cache.Cache) -> None:
    """Make the authority and the control plane's certificates, unless they are there."""
    pki = where.pki
    if (pki / "complete").exists():
        return
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    commands.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", f"{VALID_DAYS}", "-subj", "/CN=chrek development cluster",
         "-addext", "keyUsage=critical,keyCertSign,digitalSignature,keyEncipherment",
         "-keyout", f"{pki / 'ca.key'}", "-out", f"{pki / 'ca.crt'}"]
    )  # fmt: skip
    commands.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout",
         "-out", f"{pki / 'service-accounts.key'}"]
    )  # fmt: skip
    commands.run(
        ["openssl", "ec", "-in", f"{pki / 'service-accounts.key'}", "-pubout",
         "-out", f"{pki / 'service-accounts.pub'}"]
    )  # fmt: skip
    names = [
        "DNS:kubernetes",
        "DNS:kubernetes.default",
        "DNS:kubernetes.default.svc",
        f"DNS:kubernetes.default.svc.{addresses.CLUSTER_DOMAIN}",
        "DNS:localhost",
        f"IP:{addresses.KUBERNETES_SERVICE}",
        f"IP:{addresses.HOST}",
        "IP:127.0.0.1",
    ]
    _issue(pki, API_SERVER, "kube-apiserver", "", names)
    for name, (common_name, organization) in _USERS.items():
        _issue(pki, name, common_name, organization, [f"DNS:{name}"])
        if name not in _WITHOUT_KUBECONFIG:
            _write_kubeconfig(pki, name)
    (pki / "complete").touch()


def ensure_node(where: cache.Cache, node: addresses.Node) -> None:
    """Make the certificate with which a node's kubelet serves and asks, unless it is there."""
    if (where.pki / f"{node.name}.kubeconfig").exists():
        return
    _issue(
        where.pki, node.name, f"system:node:{node.name}", "system:nodes",
        [f"DNS:{node.name}", f"IP:{node.address}"],
    )  # fmt: skip
    _write_kubeconfig(where.pki, node.name)


def _issue(pki: Path, name: str, common_name: str, organization: str, names: list[str]) -> None:
    subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
    request = pki / f"{name}.csr"
    extensions = pki / f"{name}.ext"
    extensions.write_text(
        f"subjectAltName={','.join(names)}\n"
        "extendedKeyUsage=serverAuth,clientAuth\n"
        "basicConstraints=CA:FALSE\n"
    )
    commands.run(
        ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", subject, "-keyout", f"{pki / name}.key", "-out", f"{request}"]
    )  # fmt: skip
    # A serial of our own: openssl's serial file is not safe for two nodes at once.
    commands.run(
        ["openssl", "x509", "-req", "-in", f"{request}", "-days", f"{VALID_DAYS}",
         "-CA", f"{pki / 'ca.crt'}", "-CAkey", f"{pki / 'ca.key'}",
         "-set_serial", f"0x{secrets.token_hex(15)}",
         "-extfile", f"{extensions}", "-out", f"{pki / name}.crt"]
    )  # fmt: skip
    request.unlink()
    extensions.unlink()


def _write_kubeconfig(pki: Path, user: str) -> None:
    """Write a kubeconfig. JSON is YAML too, and every client reads it."""
    server = f"https://{addresses.HOST}:{addresses.API_PORT}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "chrek",
                "cluster": {"server": server, "certificate-authority-data": _data(pki / "ca.crt")},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _data(pki / f"{user}.crt"),
                    "client-key-data": _data(pki / f"{user}.key"),
                },
            }
        ],
        "contexts": [{"name": "chrek", "context": {"cluster": "chrek", "user": user}}],
        "current-context": "chrek",
    }
    path = pki / f"{user}.kubeconfig"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(config, indent=2) + "\n")
    draft.chmod(0o600)
    draft.replace(path)


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
