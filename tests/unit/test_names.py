"""Names are an interface: valid for Kubernetes, and the older spellings keep working."""

import re

import pytest

from chrek import names
from chrek.operator import jobs, place, podshape, templates, workloads
from fakes import operator

QUALIFIED = re.compile(r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")

KEYS = {
    name: value
    for name, value in vars(names).items()
    if name.startswith(("ANNOTATION_", "LABEL_", "CONDITION_RESTORED", "FINALIZER"))
    and "ALIAS" not in name
}


@pytest.mark.parametrize(("name", "value"), KEYS.items())
def test_keys_are_qualified_names_of_our_group(name, value):
    assert QUALIFIED.match(value), name
    assert value.startswith((f"{names.GROUP}/", f"chrek.{names.GROUP}/")), name


def test_keys_are_distinct():
    assert len(set(KEYS.values())) == len(KEYS)


@pytest.mark.parametrize("reason", names.Reason)
def test_reasons_are_camel_case_words(reason):
    # The API server's own rule for a condition's reason, without its optional extras.
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]{2,63}", reason)


def test_reasons_are_distinct():
    assert len({str(reason) for reason in names.Reason}) == len(names.Reason)
    assert len(names.Reason.__members__) == len(names.Reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DYNAMO_CHECKPOINT_STORAGE_TYPE", "DYN_CHECKPOINT_STORAGE_TYPE"),
        ("DYNAMO_CHECKPOINT_LOCATION", "DYN_CHECKPOINT_LOCATION"),
        ("DYNAMO_CHECKPOINT_PATH", "DYN_CHECKPOINT_PATH"),
        ("DYNAMO_CHECKPOINT_HASH", "DYN_CHECKPOINT_HASH"),
        ("DYNAMO_CHECKPOINT_SIGNAL_FILE", "DYN_READY_FOR_CHECKPOINT_FILE"),
    ],
)
def test_older_environment_variables(old, new):
    assert names.ENV_ALIASES[old] == new


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        (names.LABEL_ALIASES, "nvidia.com/checkpoint-source", names.LABEL_SOURCE),
        (names.IDENTITY_ALIASES, "framework", "backendFramework"),
        (names.IDENTITY_ALIASES, "frameworkVersion", "dynamoVersion"),
        (names.MODE_ALIASES, "Auto", "auto"),
        (names.MODE_ALIASES, "Reference", "reference"),
    ],
)
def test_older_spellings(table, old, new):
    assert table[old] == new


@pytest.mark.parametrize(("old", "new"), names.ENV_ALIASES.items())
def test_an_older_environment_variable_is_set_beside_todays(old, new):
    where = place.Place("pvc", "/checkpoints")
    for source in (True, False):
        made = {
            variable["name"]: variable["value"]
            for variable in podshape.environment(where, identity_hash="0" * 16, source=source)
        }
        assert made.get(old) == made.get(new)
        if made.get(new):
            break
    assert made[old], "no pod gets it"
    if new == names.ENV_READY_FILE:
        assert source, "a serving pod that sees it would stop serving"


@pytest.mark.parametrize(("old", "new"), names.LABEL_ALIASES.items())
def test_an_older_label_is_set_beside_todays(old, new):
    pod = {"spec": {"containers": [{"name": "main", "image": "llama:1", "command": ["a"]}]}}
    item = {
        "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"identity": {}, "job": {"podTemplateSpec": pod}},
    }
    entry = {"variant": "v", "phase": "Pending", "jobName": "checkpoint-0"}
    wanted = templates.wanted(pod, job=item["spec"]["job"])
    job = jobs.build(item, wanted, entry, identity_hash="0", settings=operator.SETTINGS, own="ns")
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"][old] == metadata["labels"][new] == "true"


@pytest.mark.parametrize(("old", "new"), names.MODE_ALIASES.items())
def test_an_older_mode_means_todays(old, new):
    section = {"enabled": True, "identity": {"model": "m", "framework": "vllm"}}
    if new == "reference":
        section = {"enabled": True, "checkpointRef": "warm"}
    before = workloads.wish({"checkpoint": {**section, "mode": old}}, "Worker")
    after = workloads.wish({"checkpoint": {**section, "mode": new}}, "Worker")
    assert (before.known, before.reference) == (after.known, after.reference)
    assert (before.known is None) == (new == "reference")


def test_every_older_spelling_is_in_the_tables():
    """What the older user's guide prints; a new entry needs a line in the tests above."""
    assert set(names.IDENTITY_ALIASES) == {"framework", "frameworkVersion"}
    assert set(names.LABEL_ALIASES) == {"nvidia.com/checkpoint-source"}
    assert set(names.MODE_ALIASES) == {"Auto", "Reference"}
    prefix = "DYNAMO_CHECKPOINT_"
    assert set(names.ENV_ALIASES) == {
        prefix + word for word in ("STORAGE_TYPE", "LOCATION", "PATH", "HASH", "SIGNAL_FILE")
    }


def test_an_alias_is_no_current_name():
    tables = (names.ENV_ALIASES, names.LABEL_ALIASES, names.IDENTITY_ALIASES, names.MODE_ALIASES)
    for table in tables:
        assert not set(table) & set(table.values())


def test_init_lies_below_the_mounted_volume():
    assert names.INIT_PATH.startswith(f"{names.MOUNT_PATH}/")
    assert names.READY_FILE.startswith(f"{names.MOUNT_PATH}/")
