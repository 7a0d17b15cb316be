"""A device plugin for the stand-in of NVIDIA's driver: it runs in a pod on every node.

It lays the stand-in out below a directory of the node, tells the kubelet of the GPUs there as
`nvidia.com/gpu`, by UUID, and gives containers what NVIDIA's runtime gives them: device files, the
driver's two libraries and a way to the driver, which here is a directory. Of each allocation it
prints a line of JSON.

Source: api.proto of k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1; of its messages the fields that
are used.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

RESOURCE = "nvidia.com/gpu"
HOST = "/var/lib/standin-gpu"
"""On the node."""
LIBRARIES = "usr/lib/x86_64-linux-gnu"
NAMES = ("libcuda.so.1", "libnvidia-ml.so.1")
IN_CONTAINER = "/run/standin-gpu"

KERNEL = """
import ctypes, os, pathlib
node = pathlib.Path(os.environ['CHREK_STANDIN_NODE'])
there = pathlib.Path('/proc/driver')
if node.is_dir() and not (there / 'nvidia').exists():
    if ctypes.CDLL(None).mount(b'standin', bytes(there), b'tmpfs', 0, None) == 0:
        lines = [line.split() for line in (node / 'node.conf').read_text().splitlines()]
        for words in lines:
            if words[0] == 'gpu':
                (there / f'nvidia/gpus/0000:0{words[1]}:00.0').mkdir(parents=True)
        version = dict(words[:2] for words in lines)['driver']
        text = f'NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  of a stand-in'
        (there / 'nvidia/version').write_text(text)
"""
"""An agent's `sitecustomize`: /proc has what the driver's part in the kernel shows there."""

_GIVEN = pathlib.Path("/etc/standin-gpu")
_HERE = pathlib.Path("/standin-gpu")
"""HOST, in the plugin's container."""
_SOCKETS = pathlib.Path("/var/lib/kubelet/device-plugins")
_SOCKET = "standin-gpu.sock"
_VERSION = "v1beta1"

_TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BOOL = descriptor_pb2.FieldDescriptorProto.TYPE_BOOL
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_ONE = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_MANY = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED

_MESSAGES: dict[str, list[tuple[int, str, str | int, int]]] = {
    "Empty": [],
    "DevicePluginOptions": [],
    "RegisterRequest": [
        (1, "version", _TEXT, _ONE),
        (2, "endpoint", _TEXT, _ONE),
        (3, "resource_name", _TEXT, _ONE),
    ],
    "Device": [(1, "ID", _TEXT, _ONE), (2, "health", _TEXT, _ONE)],
    "ListAndWatchResponse": [(1, "devices", "Device", _MANY)],
    "ContainerAllocateRequest": [(1, "devices_ids", _TEXT, _MANY)],
    "AllocateRequest": [(1, "container_requests", "ContainerAllocateRequest", _MANY)],
    # As a map is on the wire.
    "Variable": [(1, "key", _TEXT, _ONE), (2, "value", _TEXT, _ONE)],
    "Mount": [
        (1, "container_path", _TEXT, _ONE),
        (2, "host_path", _TEXT, _ONE),
        (3, "read_only", _BOOL, _ONE),
    ],
    "DeviceSpec": [
        (1, "container_path", _TEXT, _ONE),
        (2, "host_path", _TEXT, _ONE),
        (3, "permissions", _TEXT, _ONE),
    ],
    "ContainerAllocateResponse": [
        (1, "envs", "Variable", _MANY),
        (2, "mounts", "Mount", _MANY),
        (3, "devices", "DeviceSpec", _MANY),
    ],
    "AllocateResponse": [(1, "container_responses", "ContainerAllocateResponse", _MANY)],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="deviceplugin.proto", package=_VERSION, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, label in fields:
            if isinstance(kind, int):
                message.field.add(name=field, number=number, type=kind, label=label)
            else:
                message.field.add(
                    name=field, number=number, type=_MESSAGE, label=label,
                    type_name=f".{_VERSION}.{kind}",
                )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_VERSION}.{name}"))
        for name in _MESSAGES
    }


pb = _classes()


def lay_out(node: str) -> None:
    """Writes the driver of a node."""
    libraries = _HERE / "driver" / LIBRARIES
    libraries.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        shutil.copy(_GIVEN / name, libraries / name)
    site = _HERE / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(KERNEL)
    directory = _HERE / "node"
    directory.mkdir(exist_ok=True)
    shutil.copy(_GIVEN / f"{node}.conf", directory / "node.conf")
    for minor in gpus(node).values():
        memory = directory / "memory" / str(minor)
        memory.mkdir(parents=True, exist_ok=True)
        memory.chmod(0o777)


def gpus(node: str) -> dict[str, int]:
    """UUID of each GPU of a node -> number of its device file."""
    lines = (_GIVEN / f"{node}.conf").read_text().splitlines()
    found = [line.split() for line in lines if line.startswith("gpu ")]
    return {uuid: int(minor) for _, minor, uuid, *_ in found}


class Plugin:
    """The service that the kubelet calls."""

    def __init__(self, gpus: dict[str, int]) -> None:
        self._gpus = gpus
        self.ended = threading.Event()

    def options(self, _request: Any, _context: Any) -> Any:
        return pb["DevicePluginOptions"]()

    def watch(self, _request: Any, _context: Any) -> Iterator[Any]:
        devices = [pb["Device"](ID=uuid, health="Healthy") for uuid in self._gpus]
        yield pb["ListAndWatchResponse"](devices=devices)
        self.ended.wait()

    def allocate(self, request: Any, _context: Any) -> Any:
        answers = [self._container([*one.devices_ids]) for one in request.container_requests]
        return pb["AllocateResponse"](container_responses=answers)

    def _container(self, uuids: list[str]) -> Any:
        print(json.dumps({"allocated": uuids}), flush=True)
        files = ["nvidiactl", "nvidia-uvm", *(f"nvidia{self._gpus[uuid]}" for uuid in uuids)]
        mounts = [
            pb["Mount"](container_path=IN_CONTAINER, host_path=f"{HOST}/node"),
            *(
                pb["Mount"](
                    container_path=f"/{LIBRARIES}/{name}",
                    host_path=f"{HOST}/driver/{LIBRARIES}/{name}",
                    read_only=True,
                )
                for name in NAMES
            ),
        ]
        return pb["ContainerAllocateResponse"](
            envs=[pb["Variable"](key="NVIDIA_VISIBLE_DEVICES", value=",".join(uuids))],
            mounts=mounts,
            # A file with the driver's own numbers cannot be opened where there is no driver.
            devices=[
                pb["DeviceSpec"](
                    container_path=f"/dev/{name}", host_path="/dev/null", permissions="rw"
                )
                for name in files
            ],
        )

    def handlers(self) -> Any:
        def unary(method: Any, request: str) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                method, pb[request].FromString, lambda message: message.SerializeToString()
            )

        return grpc.method_handlers_generic_handler(
            f"{_VERSION}.DevicePlugin",
            {
                "GetDevicePluginOptions": unary(self.options, "Empty"),
                "Allocate": unary(self.allocate, "AllocateRequest"),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                    self.watch,
                    pb["Empty"].FromString,
                    lambda message: message.SerializeToString(),
                ),
            },
        )


def register() -> None:
    """Tells the kubelet of the plugin, which must be serving."""
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{_SOCKETS}/kubelet.sock", options) as channel:
        call = channel.unary_unary(
            f"/{_VERSION}.Registration/Register",
            request_serializer=pb["RegisterRequest"].SerializeToString,
            response_deserializer=pb["Empty"].FromString,
        )
        request = pb["RegisterRequest"](version=_VERSION, endpoint=_SOCKET, resource_name=RESOURCE)
        call(request, timeout=10)


def serve(node: str) -> None:
    """Until SIGTERM."""
    plugin = Plugin(gpus(node))
    socket = _SOCKETS / _SOCKET
    socket.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((plugin.handlers(),))
    server.add_insecure_port(f"unix:{socket}")
    signal.signal(signal.SIGTERM, lambda *_: plugin.ended.set())
    server.start()
    register()
    print(json.dumps({"registered": RESOURCE}), flush=True)
    plugin.ended.wait()
    server.stop(1).wait()
    socket.unlink(missing_ok=True)


if __name__ == "__main__":
    {"lay-out": lay_out, "serve": serve}[sys.argv[1]](os.environ["NODE_NAME"])
