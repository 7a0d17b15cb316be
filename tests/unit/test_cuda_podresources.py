"""The kubelet's answers, over its protocol on a real socket."""

import concurrent.futures
import threading
import time

import grpc
import pytest

from chrek.cuda import podresources
from chrek.cuda import podresources_pb2 as pb

A, B, C = (f"GPU-{letter * 8}-0000-1111-2222-{letter * 12}" for letter in "abc")
MIG = "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f"
WAIT_SECONDS = 0.3


def devices(*ids, resource="nvidia.com/gpu"):
    return pb.ContainerDevices(resource_name=resource, device_ids=ids)


def claim(*names, driver="gpu.nvidia.com"):
    resources = [pb.ClaimResource(driver_name=driver, device_name=name) for name in names]
    return pb.DynamicResource(claim_resources=resources)


def pod(name="worker", namespace="models", **containers):
    made = [
        pb.ContainerResources(
            name=container,
            devices=[one for one in given if isinstance(one, pb.ContainerDevices)],
            dynamic_resources=[one for one in given if isinstance(one, pb.DynamicResource)],
        )
        for container, given in containers.items()
    ]
    return pb.PodResources(name=name, namespace=namespace, containers=made)


@pytest.fixture
def kubelet(tmp_path):
    """A function that starts a server which answers List; returns the path of its socket."""
    servers = []

    def start(
        answer, *, service="v1.PodResourcesLister", serialize=pb.ListResponse.SerializeToString
    ):
        pool = concurrent.futures.ThreadPoolExecutor(4)
        server = grpc.server(pool)
        handler = grpc.unary_unary_rpc_method_handler(
            lambda request, context: answer(context) if callable(answer) else answer,
            request_deserializer=pb.ListRequest.FromString,
            response_serializer=serialize,
        )
        generic = grpc.method_handlers_generic_handler(service, {"List": handler})
        server.add_generic_rpc_handlers((generic,))
        path = tmp_path / "kubelet.sock"
        assert server.add_insecure_port(f"unix:{path}")
        server.start()
        servers.append((server, pool))
        return path

    def stop():
        while servers:
            server, pool = servers.pop()
            server.stop(0).wait()
            pool.shutdown()

    start.stop = stop
    yield start
    stop()


def ask(kubelet, *pods, container="main"):
    path = kubelet(pb.ListResponse(pod_resources=pods))
    return podresources.Client(path).devices("models", "worker", container)


GIVEN = {
    "one": ([devices(A)], [A]),
    "several": ([devices(A, B)], [A, B]),
    "of two memory nodes": ([devices(B), devices(A)], [B, A]),
    "shared": ([devices(f"{A}::3", resource="nvidia.com/gpu.shared")], [A]),
    "shares of one": ([devices(f"{A}::0", f"{A}::1", f"{B}::0")], [A, B]),
    "under another name": ([devices(A, resource="nvidia.com/h100")], [A]),
    "a part": ([devices(MIG, resource="nvidia.com/mig-1g.10gb")], [MIG]),
    "a share of a part": ([devices(f"{MIG}::1", resource="nvidia.com/mig-1g.10gb")], [MIG]),
    "GKE": ([devices("nvidia0", "nvidia12")], ["minor:0", "minor:12"]),
    "GKE, shared": ([devices("nvidia3/vgpu1")], ["minor:3"]),
    "GKE, a part": ([devices("nvidia3/gi2")], ["MIG-nvidia3/gi2"]),
    "GKE, a share of a part": ([devices("nvidia3/gi2/vgpu0")], ["MIG-nvidia3/gi2"]),
    "claim": ([claim("gpu-3")], ["minor:3"]),
    "claims": ([claim("gpu-3", "gpu-0"), claim("gpu-3")], ["minor:3", "minor:0"]),
    "claim of a part": ([claim("gpu-0-mig-1g10gb-19-0")], ["MIG-gpu-0-mig-1g10gb-19-0"]),
    "none": ([], []),
    "another vendor": ([devices("nvidia0", A, resource="example.com/gpu")], []),
    "a network device": ([devices("0000:3b:00.0", resource="nvidia.com/hostdev")], []),
    "for virtual machines": ([devices("17", resource="nvidia.com/pgpu"), claim("gpu-vfio-0")], []),
    "slices of a scheduler that allocates by itself": ([devices(f"{A}-0", f"{A}-1")], []),
    "another driver's claim": ([claim("gpu-0", driver="gpu.amd.com")], []),
    "a channel": ([claim("channel-0", driver="compute-domain.nvidia.com")], []),
    "a claim without a name": ([claim("", driver="")], []),
}


@pytest.mark.parametrize(("given", "wanted"), GIVEN.values(), ids=list(GIVEN))
def test_what_a_container_was_given(kubelet, given, wanted):
    assert ask(kubelet, pod(main=given)) == wanted


def test_only_this_container_of_this_pod(kubelet):
    pods = (
        pod(namespace="other", main=[devices(B)]),
        pod(name="worker-1", main=[devices(B)]),
        pod(sidecar=[devices(B)], main=[devices(A)], other=[]),
    )
    assert ask(kubelet, *pods) == [A]


@pytest.mark.parametrize(
    "pods",
    [(), (pod(namespace="other", main=[devices(B)]),), (pod(sidecar=[devices(B)]),)],
    ids=["no pod", "of another namespace", "of another container"],
)
def test_a_container_that_the_kubelet_does_not_know(kubelet, pods):
    assert ask(kubelet, *pods) is None


def test_two_pods_of_one_name(kubelet):
    """One of them has ended; which, nobody says."""
    one, other = pod(main=[devices(A, B)]), pod(main=[devices(C)])
    assert ask(kubelet, one, other) is None
    kubelet.stop()
    assert ask(kubelet, one, pod(main=[devices(B), devices(A)])) == [A, B]


def field(number, content):
    """A field of bytes as it goes over the wire, its length in two bytes."""
    size = len(content)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content


def test_the_numbers_of_the_fields_are_the_kubelets(kubelet):
    """With fields that are not read: cpu_ids, memory, topology, and those of a later kubelet."""
    given = field(1, b"nvidia.com/gpu") + field(2, A.encode()) + field(3, b"")
    device = field(1, field(1, b"k8s.gpu.nvidia.com/device=gpu-4")) + field(2, b"gpu.nvidia.com")
    claimed = field(2, b"claim") + field(4, device + field(3, b"pool") + field(4, b"gpu-4"))
    before = field(1, b"main") + field(3, b"\x01\x02") + field(4, field(1, b"memory"))
    for resources, wanted in ((field(2, given), A), (field(5, claimed), "minor:4")):
        container = before + resources + field(15, b"later")
        listed = field(1, b"worker") + field(2, b"models") + field(3, container)
        path = kubelet(field(1, listed), serialize=bytes)
        assert podresources.Client(path).devices("models", "worker", "main") == [wanted]
        kubelet.stop()


def test_a_node_with_many_pods(kubelet):
    """More than the 4 MiB that gRPC takes by default."""
    others = [
        pod(name=f"p{n}", main=[devices(*[f"{B}::{n}" for n in range(400)])]) for n in range(400)
    ]
    assert sum(one.ByteSize() for one in others) > 5 << 20
    assert ask(kubelet, *others, pod(main=[devices(A)])) == [A]


def refusing(code):
    def answer(context):
        context.abort(code, "no")

    return answer


CODES = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_kubelet_that_refuses(kubelet, code, caplog):
    client = podresources.Client(kubelet(refusing(code)))
    assert client.devices("models", "worker", "main") is None
    assert [record.code for record in caplog.records] == [code.name]


def test_a_kubelet_with_another_version_only(kubelet, caplog):
    client = podresources.Client(kubelet(pb.ListResponse(), service="v1alpha1.PodResourcesLister"))
    assert client.devices("models", "worker", "main") is None
    assert [record.code for record in caplog.records] == ["UNIMPLEMENTED"]


def test_a_kubelet_that_answers_nonsense(kubelet):
    path = kubelet(b"\xff\xff", serialize=bytes)
    assert podresources.Client(path).devices("models", "worker", "main") is None


def test_a_kubelet_that_hangs(kubelet, caplog):
    over = threading.Event()

    def answer(context):
        over.wait(60)
        return pb.ListResponse()

    client = podresources.Client(kubelet(answer), timeout_seconds=WAIT_SECONDS)
    start = time.monotonic()
    try:
        assert client.devices("models", "worker", "main") is None
        assert WAIT_SECONDS <= time.monotonic() - start < 10
    finally:
        over.set()
    assert [record.code for record in caplog.records] == ["DEADLINE_EXCEEDED"]
    assert podresources.TIMEOUT_SECONDS == 3


def test_no_socket(tmp_path):
    start = time.monotonic()
    client = podresources.Client(tmp_path / "kubelet.sock")
    assert client.devices("models", "worker", "main") is None
    assert time.monotonic() - start < podresources.TIMEOUT_SECONDS, "there is nothing to wait for"


def test_silence_is_told_once_and_its_end_too(kubelet, tmp_path, caplog):
    caplog.set_level("INFO")
    client = podresources.Client(tmp_path / "kubelet.sock")
    for _ in range(3):
        assert client.devices("models", "worker", "main") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    # At once, not when some back-off is over: a kubelet that starts makes another socket.
    kubelet(pb.ListResponse(pod_resources=[pod(main=[devices(A)])]))
    for _ in range(2):
        assert client.devices("models", "worker", "main") == [A]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    kubelet.stop()
    assert client.devices("models", "worker", "main") is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_many_threads_ask_at_once(kubelet):
    client = podresources.Client(kubelet(pb.ListResponse(pod_resources=[pod(main=[devices(A)])])))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: client.devices("models", "worker", "main"), range(32))
        assert list(found) == [[A]] * 32
