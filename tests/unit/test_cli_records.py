"""Schemas of outputs: the files are those of the classes, and strict."""

import json
import pathlib

import jsonschema
import pytest

from chrek import cli
from chrek.cli import records

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "schemas/cli"


@pytest.mark.parametrize("command", records.OUTPUTS)
def test_the_file_is_that_of_the_class(command):
    found = json.loads((FOLDER / f"{command}.schema.json").read_text())
    assert found == records.schema(command), "run scripts/generate"
    jsonschema.Draft202012Validator.check_schema(found)


def test_there_is_a_schema_for_each_output_and_nothing_else():
    assert {path.name for path in FOLDER.iterdir()} == {f"{c}.schema.json" for c in records.OUTPUTS}
    assert set(records.OUTPUTS) <= set(cli._COMMANDS)


@pytest.mark.parametrize("command", records.OUTPUTS)
def test_objects_have_no_other_fields(command):
    for definition in records.schema(command)["$defs"].values():
        assert definition["additionalProperties"] is False
        assert "description" in definition
