"""Environment of workers with several GPUs, in checkpoint jobs and in pods alike."""

import copy

import pytest

from chrek import config
from chrek.operator import injection, jobs, nccl, place, templates
from fakes import operator
from fakes.jsonpatch import applied

HASH = "5941a4cb3c363457"
ALL = {
    "NCCL_P2P_DISABLE": "1",
    "NCCL_NVLS_ENABLE": "0",
    "NCCL_CUMEM_HOST_ENABLE": "0",
    "NCCL_SHM_DISABLE": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
}


def limits(**counts):
    return {f"nvidia.com/{name.replace('__', '.')}": value for name, value in counts.items()}


def container(resources, env=()):
    return {
        "name": "main",
        "image": "vllm:1",
        "command": ["serve"],
        "env": list(env),
        "resources": resources,
    }


def found(resources, env=(), annotations=None):
    made = nccl.environment(container(resources, env), annotations)
    return {variable["name"]: variable["value"] for variable in made}


@pytest.mark.parametrize(
    ("resources", "several"),
    [
        ({}, False),
        ({"limits": {"memory": "9Gi", "cpu": "4"}}, False),
        ({"limits": limits(gpu="1")}, False),
        ({"limits": limits(gpu=1)}, False),
        ({"limits": limits(gpu="2")}, True),
        ({"limits": limits(gpu=8)}, True),
        ({"limits": limits(gpu__shared="1", gpu="1")}, True),
        ({"limits": limits(gpu="1", hostdev="4")}, False),
        ({"limits": limits(gpu="many")}, False),
        ({"requests": limits(gpu="2")}, False),
        ({"limits": None, "claims": None}, False),
        ({"claims": [{"name": "gpus"}]}, True),
    ],
)
def test_who_gets_it(resources, several):
    assert found(resources) == (ALL if several else {})
    assert nccl.environment({}, None) == []


SEVERAL = {"limits": limits(gpu="2")}


def test_variables_of_the_container_stay_whatever_they_say():
    env = [
        {"name": "NCCL_P2P_DISABLE", "value": "0"},
        {"name": "NCCL_SHM_DISABLE", "valueFrom": {}},
    ]
    left = {k: v for k, v in ALL.items() if k not in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE")}
    assert found(SEVERAL, env) == left


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        ({"nvidia.com/chrek-nccl": "keep"}, True),
        ({"nvidia.com/chrek-nccl": "no"}, False),
        ({"nvidia.com/chrek-other": "keep"}, False),
        ({}, False),
    ],
)
def test_an_annotation_leaves_it_out(annotations, kept):
    assert found(SEVERAL, annotations=annotations) == ({} if kept else ALL)


def job(worker, annotations):
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [worker]}}
    item = {
        "metadata": {"name": "ckpt", "namespace": "ns", "uid": "1"},
        "spec": {"identity": {}, "job": {"podTemplateSpec": copy.deepcopy(template)}},
    }
    entry = {"jobName": "checkpoint-x"}
    made = jobs.build(
        item,
        templates.wanted(template),
        entry,
        identity_hash=HASH,
        settings=operator.SETTINGS,
        own="ns",
    )
    return made["spec"]["template"]["spec"]["containers"][0]["env"]


def pod(worker, annotations):
    item = {
        "metadata": {"annotations": {"nvidia.com/chrek-checkpoint": HASH, **annotations}},
        "spec": {"containers": [worker]},
    }
    where = place.of(config.Storage(), namespace="ns", own="ns")
    settings = operator.SETTINGS
    verdict = injection.decide(item, lambda _: None, settings=settings, where=where)
    return applied(item, verdict.patch)["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("env", [[], [{"name": "NCCL_P2P_DISABLE", "value": "0"}]])
@pytest.mark.parametrize("annotations", [{}, {"nvidia.com/chrek-nccl": "keep"}])
@pytest.mark.parametrize("resources", [SEVERAL, {"limits": limits(gpu="1")}])
def test_jobs_and_pods_have_the_same(resources, annotations, env):
    worker = container(resources, env)

    def ours(variables):
        return [v for v in variables if v["name"] in ALL]

    assert ours(job(worker, annotations)) == ours(pod(worker, annotations))
    several = resources is SEVERAL and not annotations
    assert len(ours(pod(worker, annotations))) == (len(ALL) if several else len(env))


def test_a_worker_that_is_captured_again_has_them_once():
    """A checkpoint that is made of a pod has what the webhook put into it."""
    once = pod(container(SEVERAL), {})
    again = job(container(SEVERAL, once), {})
    assert [v["name"] for v in again].count("NCCL_P2P_DISABLE") == 1
