"""The agent's door to the GPUs of its node."""

import pytest

from chrek import config, errors
from chrek.agent import gpus, objects
from chrek.cuda import client, library, podresources

SETTINGS = config.AgentConfig(
    apiVersion="chrek.nvidia.com/v1alpha1",
    release="chrek-chrek",
    watchNamespaces=["llm"],
    gpu=config.Gpu(lockTimeoutSeconds=7),
)
POD = objects.pod(
    {
        "metadata": {
            "namespace": "llm",
            "name": "worker-1",
            "uid": "uid-1",
            "annotations": {"nvidia.com/chrek-checkpoint": "one"},
        },
        "spec": {"containers": [{"name": "main", "image": "llm:1", "command": ["serve"]}]},
    }
)


@pytest.fixture
def driver(monkeypatch):
    """What the helper is asked; `there` says whether the node has a driver."""

    class Driver:
        there, asked, error = True, [], None

    def start(self):
        Driver.asked.append("start")
        if Driver.error:
            raise Driver.error

    monkeypatch.setattr(client.Helper, "available", lambda self: Driver.there)
    monkeypatch.setattr(client.Helper, "start", start)
    Driver.asked = []
    return Driver


def test_a_node_without_a_driver(driver):
    driver.there = False
    made = gpus.NodeGpus(SETTINGS)
    assert made.of(POD) is None
    made.warm_up()
    assert not driver.asked
    made.close()


def test_a_pod_on_a_node_with_a_driver(driver, monkeypatch):
    asked = []
    monkeypatch.setattr(
        podresources.Client, "devices", lambda self, *names: asked.append(names) or ["GPU-a"]
    )
    made = gpus.NodeGpus(SETTINGS)
    found = made.of(POD)
    assert found._allocated() == ["GPU-a"]
    assert asked == [("llm", "worker-1", "main")]
    assert found._lock_timeout_seconds == 7
    made.close()


def test_the_driver_is_initialised_before_the_first_pod(driver):
    made = gpus.NodeGpus(SETTINGS)
    driver.error = errors.GpuError("no GPU")
    made.warm_up()
    assert driver.asked == ["start"]
    made.close()


@pytest.mark.parametrize(
    ("roots", "wanted"), [([], library.DRIVER_ROOTS), (["/opt/driver"], ("/opt/driver",))]
)
def test_where_a_driver_is_looked_for(roots, wanted):
    settings = config.AgentConfig(
        apiVersion="chrek.nvidia.com/v1alpha1",
        release="r",
        watchNamespaces=[],
        gpu=config.Gpu(driverRoots=roots),
    )
    assert gpus.NodeGpus(settings).helper._roots == wanted
