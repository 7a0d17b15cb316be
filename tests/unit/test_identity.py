"""Hashes equal those of published ChReK versions, and only what matters changes them."""

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrek import errors, identity, names

PLAIN = {"model": "meta-llama/Llama-3-8B", "backendFramework": "vllm"}

VECTORS = [
    # Published by ChReK.
    ({"model": "meta-llama/Llama-2-7b-hf", "backendFramework": "vllm"}, "96429b2725761a09"),
    (PLAIN | {"tensorParallelSize": 1, "dtype": "bfloat16"}, "5941a4cb3c363457"),
]

CANONICAL = [
    (
        PLAIN,
        '{"model":"meta-llama/Llama-3-8B","backendFramework":"vllm",'
        '"tensorParallelSize":1,"pipelineParallelSize":1}',
    ),
    (
        PLAIN
        | {"extraParameters": {"z": "1", "B": "2", "a": "3"}, "maxModelLen": 8192}
        | {"dtype": "fp8", "pipelineParallelSize": 2, "tensorParallelSize": 4}
        | {"dynamoVersion": "0.9.0"},
        '{"model":"meta-llama/Llama-3-8B","backendFramework":"vllm","dynamoVersion":"0.9.0",'
        '"tensorParallelSize":4,"pipelineParallelSize":2,"dtype":"fp8","maxModelLen":8192,'
        '"extraParameters":{"B":"2","a":"3","z":"1"}}',
    ),
    (
        {"model": 'a<b>&\u2028\u2029\u00e9\U0001f600"\\', "backendFramework": "sglang"},
        '{"model":"a\\u003cb\\u003e\\u0026\\u2028\\u2029\u00e9\U0001f600\\"\\\\",'
        '"backendFramework":"sglang","tensorParallelSize":1,"pipelineParallelSize":1}',
    ),
    (
        # Go sorts keys by their bytes: U+E000 (3 bytes, ee…) before U+10000 (4 bytes, f0…).
        PLAIN | {"extraParameters": {"\U00010000": "1", "\ue000": "2"}},
        '{"model":"meta-llama/Llama-3-8B","backendFramework":"vllm","tensorParallelSize":1,'
        '"pipelineParallelSize":1,"extraParameters":{"\ue000":"2","\U00010000":"1"}}',
    ),
]

BAD = [
    ({}, "identity.model: required"),
    ({"model": "m"}, "identity.backendFramework: required"),
    ({"model": "", "backendFramework": "vllm"}, "identity.model: required"),
    (PLAIN | {"modelName": "x"}, "identity.modelName: unknown field"),
    (PLAIN | {"backendFramework": "tgi"}, "'tgi' is not one of vllm, sglang, trtllm"),
    (PLAIN | {"dynamoVersion": 0.9}, "identity.dynamoVersion: expected a string, got 0.9"),
    (PLAIN | {"tensorParallelSize": "2"}, "expected a whole number, got '2'"),
    (PLAIN | {"tensorParallelSize": True}, "expected a whole number, got True"),
    (PLAIN | {"tensorParallelSize": 1.5}, "expected a whole number, got 1.5"),
    (PLAIN | {"maxModelLen": -1}, "must be at least 1, got -1"),
    (PLAIN | {"extraParameters": {"quantization": 4}}, "values must be strings (quote them)"),
    (PLAIN | {"extraParameters": ["a"]}, "expected an object of strings"),
    (PLAIN | {"framework": "sglang"}, "says 'sglang' where backendFramework says 'vllm'"),
    ("vllm", "identity: expected an object, got str"),
    (None, "identity: expected an object, got NoneType"),
]

WORDS = st.text(min_size=1, max_size=20)
PARAMETERS = st.dictionaries(WORDS, st.text(max_size=20), max_size=5)
IDENTITIES = st.fixed_dictionaries(
    {"model": WORDS, "backendFramework": st.sampled_from(identity.BACKENDS)},
    optional={
        "dynamoVersion": st.text(max_size=10),
        "tensorParallelSize": st.integers(0, 64),
        "pipelineParallelSize": st.integers(0, 64),
        "dtype": st.text(max_size=10),
        "maxModelLen": st.integers(0, 1 << 20),
        "extraParameters": PARAMETERS,
    },
)


def hashed(raw):
    return identity.parse(raw).hash()


@pytest.mark.parametrize(("raw", "wanted"), VECTORS)
def test_published_hashes(raw, wanted):
    assert hashed(raw) == wanted


@pytest.mark.parametrize(("raw", "wanted"), CANONICAL)
def test_canonical_text(raw, wanted):
    parsed = identity.parse(raw)
    assert parsed.canonical() == wanted
    assert parsed.hash() == hashlib.sha256(wanted.encode()).hexdigest()[:16]


@pytest.mark.parametrize(("raw", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_identities_say_what_is_wrong(raw, message):
    with pytest.raises(errors.InputError) as caught:
        identity.parse(raw)
    assert message in caught.value.message
    assert caught.value.hint


def test_every_problem_is_named_at_once():
    with pytest.raises(errors.InputError) as caught:
        identity.parse({"modelName": "x", "dtype": 1, "backendFramework": "tgi"}, "spec.identity")
    for where in ("modelName", "dtype", "backendFramework", "model"):
        assert f"spec.identity.{where}: " in caught.value.message


@pytest.mark.parametrize(("old", "new"), names.IDENTITY_ALIASES.items())
def test_an_older_field_name_means_the_same(old, new):
    value = {"backendFramework": "sglang", "dynamoVersion": "0.9.0"}[new]
    rest = {key: other for key, other in PLAIN.items() if key != new}
    wanted = hashed(rest | {new: value})
    assert hashed(rest | {old: value}) == wanted
    assert hashed({old: value} | rest | {new: value}) == wanted
    assert f'"{new}":"{value}"' in identity.parse(rest | {old: value}).canonical()
    with pytest.raises(errors.InputError, match="says"):
        identity.parse(rest | {old: value, new: {"sglang": "vllm"}.get(value, "1.0")})


def test_older_field_names_mean_the_same():
    old = {"model": "m", "framework": "vllm", "frameworkVersion": "1.0"}
    new = {"model": "m", "backendFramework": "vllm", "dynamoVersion": "1.0"}
    assert hashed(old) == hashed(new) == hashed(old | new)


@given(IDENTITIES, st.randoms(use_true_random=False))
def test_order_does_not_matter(raw, random):
    def shuffled(mapping):
        pairs = list(mapping.items())
        random.shuffle(pairs)
        return dict(pairs)

    other = shuffled(raw)
    if "extraParameters" in other:
        other["extraParameters"] = shuffled(other["extraParameters"])
    assert hashed(other) == hashed(raw)


@given(IDENTITIES)
def test_unset_zero_empty_and_null_are_one(raw):
    empty = {
        "dynamoVersion": "",
        "tensorParallelSize": 0,
        "pipelineParallelSize": 0,
        "dtype": "",
        "maxModelLen": 0,
        "extraParameters": {},
    }
    assert hashed(empty | raw) == hashed(raw)
    assert hashed(dict.fromkeys(empty) | raw) == hashed(raw)


@given(IDENTITIES)
def test_defaults_may_be_written_out(raw):
    explicit = dict(raw)
    for name in ("tensorParallelSize", "pipelineParallelSize"):
        explicit[name] = explicit.get(name) or 1
    assert hashed(explicit) == hashed(raw)


@given(IDENTITIES)
def test_canonical_text_is_json_of_the_fields(raw):
    text = identity.parse(raw).canonical()
    assert not set(text) & set("<>&\u2028\u2029")
    decoded = json.loads(text)
    for name, value in raw.items():
        if value:
            assert decoded[name] == value
    assert json.loads(text) == json.loads(identity.parse(decoded).canonical())


@given(IDENTITIES, IDENTITIES)
def test_different_identities_have_different_texts(one, two):
    first, second = identity.parse(one), identity.parse(two)
    assert (first == second) == (first.canonical() == second.canonical())


@given(IDENTITIES, WORDS)
def test_unknown_fields_are_refused(raw, name):
    known = {*identity.Identity.__struct_fields__, *names.IDENTITY_ALIASES}
    if name not in known:
        with pytest.raises(errors.InputError, match="unknown field"):
            identity.parse({**raw, name: "x"})


OTHERS = st.one_of(st.booleans(), st.floats(), st.lists(st.integers()), st.binary(max_size=2))
"""Values of types that no field has."""


@given(IDENTITIES, st.sampled_from(identity.Identity.__struct_fields__), OTHERS | WORDS)
def test_a_value_of_another_type_is_refused(raw, name, value):
    kind = identity.Identity.__annotations__[name]
    if not (kind == "str" and isinstance(value, str)):
        with pytest.raises(errors.InputError, match=f"identity.{name}: "):
            identity.parse({**raw, name: value})


@given(IDENTITIES, WORDS, OTHERS | st.integers() | st.none())
def test_extra_parameters_are_strings(raw, key, value):
    with pytest.raises(errors.InputError, match="values must be strings"):
        identity.parse({**raw, "extraParameters": {key: value}})


@given(IDENTITIES, st.sampled_from(identity.Identity.__struct_fields__), st.data())
def test_each_field_changes_the_hash(raw, name, data):
    value = {
        "backendFramework": st.sampled_from(identity.BACKENDS),
        "tensorParallelSize": st.integers(1, 64),
        "pipelineParallelSize": st.integers(1, 64),
        "maxModelLen": st.integers(1, 1 << 20),
        "extraParameters": PARAMETERS,
    }.get(name, WORDS)
    parsed = identity.parse(raw)
    changed = identity.parse({**raw, name: data.draw(value)})
    same = getattr(parsed, name) == getattr(changed, name)
    assert (parsed.hash() == changed.hash()) == same


@given(IDENTITIES, st.sampled_from(["tensorParallelSize", "pipelineParallelSize", "maxModelLen"]))
def test_zero_is_unset(raw, name):
    without = {key: value for key, value in raw.items() if key != name}
    assert hashed({**without, name: 0}) == hashed(without)


@given(IDENTITIES)
def test_no_extra_parameters_are_unset(raw):
    without = {key: value for key, value in raw.items() if key != "extraParameters"}
    assert hashed({**without, "extraParameters": {}}) == hashed(without)


@given(st.dictionaries(st.sampled_from(identity.Identity.__struct_fields__), st.integers() | WORDS))
def test_anything_parses_or_is_refused_with_a_message(raw):
    try:
        answer = hashed(raw)
    except errors.InputError as err:
        answer = err.message
    assert re.fullmatch(r"[0-9a-f]{16}|identity\..+", answer, re.DOTALL)


def test_lone_surrogates_are_refused():
    """YAML and JSON can spell them; UTF-8, and so the hash, cannot."""
    with pytest.raises(errors.InputError, match="extraParameters"):
        identity.parse(PLAIN | {"extraParameters": {"a": "\udfff"}})
    with pytest.raises(errors.InputError, match="model"):
        identity.parse({"model": "\ud800", "backendFramework": "vllm"}).hash()
