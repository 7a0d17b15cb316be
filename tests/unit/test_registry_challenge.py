"""WWW-Authenticate, as registries write it."""

import pytest

from chrek.registry import challenge

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/busybox:pull,push"'
)


def parsed(*headers):
    return [(one.scheme, dict(one.parameters)) for one in challenge.parse(headers)]


def test_of_docker_hub():
    assert parsed(HUB) == [
        (
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:library/busybox:pull,push",
            },
        )
    ]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        (["Basic"], [("basic", {})]),
        (['BASIC Realm="x y"'], [("basic", {"realm": "x y"})]),
        (['Basic realm = "a" , charset=UTF-8'], [("basic", {"realm": "a", "charset": "UTF-8"})]),
        ([r'Basic realm="a\"b\\c"'], [("basic", {"realm": 'a"b\\c'})]),
        (['Basic realm=""'], [("basic", {"realm": ""})]),
        (
            ['Basic realm="a", Bearer realm="b",service=c'],
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})],
        ),
        (['Negotiate, Basic realm="a"'], [("negotiate", {}), ("basic", {"realm": "a"})]),
        (
            ['Basic realm="a"', 'Bearer realm="b"'],
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})],
        ),
        (['Bearer realm="never closed'], [("bearer", {})]),
        (['="x"', "Basic"], [("basic", {})]),
    ],
)
def test_forms(headers, expected):
    assert parsed(*headers) == expected
