"""What should be captured."""

import copy

import pytest

from chrek import errors
from chrek.operator import templates
from fakes import captures as fakes


class Images:
    """What images run, without a registry."""

    def __init__(self, entrypoint=(), arguments=()):
        self.answer = (list(entrypoint), list(arguments))
        self.asked = []

    async def entrypoint(self, namespace, image, secrets):
        self.asked.append((namespace, image, list(secrets)))
        return self.answer


def only_image(**fields):
    spec = {"containers": [{"name": "main", "image": "llama:1", **fields}]}
    return {"spec": {**spec, "imagePullSecrets": [{"name": "key"}]}}


async def test_a_command_that_is_there_asks_nobody():
    images = Images()
    assert await templates.completed(images, "ns", fakes.template()) == fakes.template()
    assert images.asked == []


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({}, ["python3", "serve.py"]),
        ({"args": ["other.py"]}, ["python3", "other.py"]),
        ({"command": [], "args": []}, ["python3", "serve.py"]),
    ],
)
async def test_the_command_of_an_image(fields, command):
    images = Images(["python3"], ["serve.py"])
    given = only_image(**fields)
    before = copy.deepcopy(given)
    made = await templates.completed(images, "ns", given)
    assert given == before
    assert made["spec"]["containers"] == [{"name": "main", "image": "llama:1", "command": command}]
    assert images.asked == [("ns", "llama:1", ["key"])]


async def test_an_image_without_a_command():
    with pytest.raises(errors.UnsupportedError) as caught:
        await templates.completed(Images(), "ns", only_image())
    assert caught.value.reason == "CommandUnknown"


def test_a_variant_is_of_image_and_command_and_an_attempt_of_everything():
    one, other = fakes.wanted(), fakes.wanted(nodeSelector={"gpu": "a"})
    assert one.variant == other.variant == fakes.name_of()
    assert one.digest() != other.digest()
    assert one.digest() == fakes.wanted().digest()
    assert one.digest() != fakes.wanted(job={"backoffLimit": 1}).digest()
    assert fakes.wanted("llama:2").variant != one.variant


def test_which_container():
    spec = {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}
    assert templates.wanted({"spec": spec}, job={"container": "b"}).image == "y"
    noted = {"metadata": {"annotations": {"nvidia.com/chrek-container": "a"}}, "spec": spec}
    assert templates.wanted(noted).image == "x"
    with pytest.raises(errors.UnsupportedError) as caught:
        templates.wanted({"spec": spec})
    assert caught.value.reason == "ContainerUnknown"


def test_graphs_say_what_they_want_and_only_changes_are_told():
    known = templates.Templates()
    one, two = fakes.wanted(), fakes.wanted("llama:2")
    assert known.put(("ns", "g"), {"h": [one]}) == {"h"}
    assert known.put(("ns", "g"), {"h": [one]}) == set()
    assert known.put(("ns", "a"), {"h": [two], "i": [one]}) == {"h", "i"}
    assert known.of("ns", "h") == [two, one], "in the order of the graphs' names"
    assert known.of("other", "h") == []
    assert known.put(("ns", "g"), {}) == {"h"}
    assert known.of("ns", "h") == [two]
    assert known.put(("ns", "a"), {"i": [two]}) == {"h", "i"}
    assert known.of("ns", "h") == []


def test_it_is_complete_once_every_graph_was_looked_at():
    known = templates.Templates()
    assert known.complete([])
    assert not known.complete([("ns", "g")])
    known.put(("ns", "g"), {})
    assert known.complete([("ns", "g")])
    assert not known.complete([("ns", "g"), ("ns", "h")])


TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}}


def test_an_image_alone_means_the_captured_worker():
    """Command and variables come from the checkpoint; what the pod sets itself counts."""
    item = fakes.checkpoint()
    captured = item["spec"]["job"]["podTemplateSpec"]["spec"]["containers"][0]
    captured["command"], captured["args"] = ["python3"], ["s.py"]
    captured["env"] = [TOKEN, {"name": "LEVEL", "value": "debug"}]
    pods = only_image(image=captured["image"], env=[{"name": "LEVEL", "value": "info"}])
    before = copy.deepcopy((pods, item))
    main = templates.as_captured(pods, item)["spec"]["containers"][0]
    assert main["command"] == ["python3", "s.py"]
    assert main["env"] == [TOKEN, {"name": "LEVEL", "value": "info"}]
    assert (pods, item) == before, "the arguments are not changed"


@pytest.mark.parametrize("item", [None, fakes.checkpoint()], ids=["none", "another image"])
def test_a_checkpoint_of_another_image_says_nothing(item):
    with pytest.raises(errors.UnsupportedError) as caught:
        templates.as_captured(only_image(image="other:1"), item)
    assert caught.value.reason == "CommandUnknown"
