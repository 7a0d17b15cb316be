import json

import pytest

from chrek.checks import nodes, report
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def pod(**spec):
    return {"metadata": {}, "spec": {"containers": [], **spec}}


def required(*terms):
    return {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}
            }
        }
    }


def expression(key, operator, *values):
    return {"key": key, "operator": operator, **({"values": [*values]} if values else {})}


def look(api, **spec):
    return nodes.nodes(release.connect(api), pod(**spec))


def mismatch(spec, *, labels=None, taints=()):
    node = {"metadata": {"name": "n1", "labels": labels or {}}, "spec": {"taints": [*taints]}}
    return nodes.mismatch(node, spec)


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (expression("gpu", "In", "a100", "h100"), True),
        (expression("gpu", "In", "a100"), False),
        (expression("none", "In", "a"), False),
        (expression("gpu", "NotIn", "a100"), True),  # codespell:ignore
        (expression("gpu", "NotIn", "h100"), False),  # codespell:ignore
        (expression("none", "NotIn", "a"), True),  # codespell:ignore
        (expression("gpu", "Exists"), True),
        (expression("none", "Exists"), False),
        (expression("gpu", "DoesNotExist"), False),
        (expression("none", "DoesNotExist"), True),
        (expression("count", "Gt", "4"), True),
        (expression("count", "Gt", "8"), False),
        (expression("count", "Lt", "9"), True),
        (expression("count", "Lt", "8"), False),
        (expression("gpu", "Gt", "4"), False),
        (expression("none", "Lt", "4"), False),
        (expression("count", "Later", "4"), False),
    ],
)
def test_operators_of_affinity(wanted, holds):
    labels = {"gpu": "h100", "count": "8"}
    found = mismatch(required({"matchExpressions": [wanted]}), labels=labels)
    assert found == ("" if holds else "labels that the affinity does not want")


@pytest.mark.parametrize(
    ("terms", "holds"),
    [
        # Terms are alternatives, expressions of a term are not.
        ([{"matchExpressions": [expression("b", "Exists")]}, {"matchExpressions": [
            expression("a", "Exists")]}], True),
        ([{"matchExpressions": [expression("a", "Exists"), expression("b", "Exists")]}], False),
        ([{"matchFields": [expression("metadata.name", "In", "n1")]}], True),
        ([{"matchFields": [expression("metadata.name", "In", "n2")]}], False),
        ([{"matchFields": [expression("metadata.name", "In", "n1")],
           "matchExpressions": [expression("b", "Exists")]}], False),
        ([{}], False),
        ([], False),
    ],
)  # fmt: skip
def test_terms_of_affinity(terms, holds):
    assert (mismatch(required(*terms), labels={"a": "1"}) == "") is holds


def test_preferred_affinity_excludes_nothing():
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    assert mismatch({"affinity": {"nodeAffinity": preferred}}) == ""


def test_node_selector():
    assert mismatch({"nodeSelector": {"a": "1"}}, labels={"a": "1", "b": "2"}) == ""
    assert mismatch({"nodeSelector": {"a": "1"}}, labels={"a": "2"}) == "no label a=1"


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Equal", "value": "present"}, True),
        ({"key": "nvidia.com/gpu", "value": "present"}, True),
        ({"key": "nvidia.com/gpu", "value": "absent"}, False),
        ({"key": "nvidia.com/gpu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"value": "present"}, False),
    ],
)
def test_tolerations(toleration, tolerated):
    found = mismatch({"tolerations": [toleration]}, taints=[GPU])
    assert found == ("" if tolerated else "taint nvidia.com/gpu=present:NoSchedule")


@pytest.mark.parametrize(
    ("taint", "repels"),
    [
        ({"key": "a", "effect": "NoSchedule"}, True),
        ({"key": "a", "effect": "NoExecute"}, True),
        ({"key": "a", "effect": "PreferNoSchedule"}, False),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, False),
        ({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, False),
        ({"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}, False),
    ],
)
def test_taints_that_keep_a_daemon_set_away(taint, repels):
    assert bool(mismatch({}, taints=[taint])) is repels


def test_nodes_are_counted_with_what_they_run(api):
    release.node(api, "n1", labels={"gpu": "1"})
    release.node(api, "n2", labels={"gpu": "1"}, info={"kernelVersion": "6.1.0"}, ready=False)
    release.node(api, "n3")
    (found,) = look(api, nodeSelector={"gpu": "1"})
    assert found == report.ok(
        "nodes",
        "2 of 3 are for agents; kernel 6.1.0, 6.8.0; runtime containerd://2.1.4; "
        "kubelet v1.34.4; NotReady: n2",
    )


def test_no_node_has_the_labels(api):
    release.node(api, "n1")
    release.node(api, "n2")
    (found,) = look(api, **required({"matchExpressions": [expression("gpu", "Exists")]}))
    assert found.status is WARNING
    assert found.detail == "none of 2 is for agents: 2 with labels that the affinity does not want"
    assert "GPU operator or node-feature-discovery" in found.hint
    assert "agent.nodes=all" in found.hint


def test_every_node_has_a_taint(api):
    release.node(api, "n1", taints=[GPU])
    (found,) = look(api)
    assert found.status is WARNING
    assert found.detail == "none of 1 is for agents: 1 with taint nvidia.com/gpu=present:NoSchedule"
    assert "agent.tolerations" in found.hint


def test_a_cluster_without_nodes(api):
    (found,) = look(api)
    assert (found.status, found.detail) == (WARNING, "none of 0 is for agents")


def test_none_of_them_is_ready(api):
    release.node(api, "n1", ready=False)
    (found,) = look(api)
    assert found.status is WARNING
    assert "NotReady: n1" in found.detail


@pytest.mark.parametrize(
    ("info", "name", "detail"),
    [
        (
            {"architecture": "arm64"},
            "architecture",
            "agents will not start on n2 (linux/arm64)",
        ),
        (
            {"operatingSystem": "windows"},
            "architecture",
            "agents will not start on n2 (windows/amd64)",
        ),
        ({"kubeletVersion": "v1.28.9"}, "kubelet-version", "older than 1.29: n2 (v1.28.9)"),
        ({"kernelVersion": "5.4.0-150"}, "kernel-version", "older than 5.9: n2 (5.4.0-150)"),
    ],
)  # fmt: skip
def test_nodes_that_agents_cannot_use(api, info, name, detail):
    release.node(api, "n1")
    release.node(api, "n2", info=info)
    count, found = look(api)
    assert count.status is OK
    assert (found.name, found.status, found.detail) == (name, WARNING, detail)
    assert found.hint
    # Nodes that are not for agents may be as they are.
    assert [one.name for one in look(api, **required(
        {"matchFields": [expression("metadata.name", "In", "n1")]}))] == ["nodes"]  # fmt: skip


def test_versions_that_cannot_be_read_are_not_judged(api):
    release.node(api, "n1", info={"kubeletVersion": "devel", "kernelVersion": ""})
    assert [one.status for one in look(api)] == [OK]


def test_nodes_come_in_pages(api):
    release.node(api, "n1")
    page = {"items": [{"metadata": {"name": "n0"}}], "metadata": {"continue": "more"}}
    pages = iter([page, {"items": [{"metadata": {"name": "n1"}}], "metadata": {}}])
    asked = []

    class Paged:
        def request(self, method, path, *, query):
            asked.append((method, path, query))
            return json.dumps(next(pages)).encode()

    assert [node["metadata"]["name"] for node in nodes.every(Paged())] == ["n0", "n1"]
    assert asked == [
        ("GET", "/api/v1/nodes", {"limit": "250"}),
        ("GET", "/api/v1/nodes", {"limit": "250", "continue": "more"}),
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (["a"], "a"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
    ],
)
def test_named(found, text):
    assert nodes.named(found) == text


RUNTIME_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"


def runtime_class(api, **spec):
    return nodes.runtime_class(release.connect(api), pod(**spec))


def test_runtime_class(api):
    api.add(RUNTIME_CLASSES, {"handler": "nvidia"}, name="gpu")
    assert runtime_class(api) == []
    assert runtime_class(api, runtimeClassName="gpu") == [
        report.ok("runtime-class", "gpu (nvidia)")
    ]


def test_a_runtime_class_that_is_missing(api):
    (found,) = runtime_class(api, runtimeClassName="gpu")
    assert (found.status, found.detail) == (FAILED, "RuntimeClass gpu: not found")
    assert "agent.runtimeClassName" in found.hint


@pytest.mark.parametrize("handler", ["runsc", "kata-qemu"])
def test_a_runtime_class_that_is_a_sandbox(api, handler):
    api.add(RUNTIME_CLASSES, {"handler": handler}, name="safe")
    (found,) = runtime_class(api, runtimeClassName="safe")
    assert found.status is FAILED
    assert f"RuntimeClass safe is a sandbox ({handler})" in found.detail
