"""Names are an interface: valid for Kubernetes, and the older spellings keep working."""

import re

import pytest

from chrek import names

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
    assert value.startswith(f"{names.GROUP}/"), name


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
    ],
)
def test_older_spellings(table, old, new):
    assert table[old] == new


def test_an_alias_is_no_current_name():
    for table in (names.ENV_ALIASES, names.LABEL_ALIASES, names.IDENTITY_ALIASES):
        assert not set(table) & set(table.values())


def test_init_lies_below_the_mounted_volume():
    assert names.INIT_PATH.startswith(f"{names.MOUNT_PATH}/")
    assert names.READY_FILE.startswith(f"{names.MOUNT_PATH}/")
