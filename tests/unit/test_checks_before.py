import pytest

from chrek import errors
from chrek.checks import before, report
from fakes import api_server, release

pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")
POD = {"metadata": {}, "spec": {"containers": []}}


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        release.healthy(server)
        yield server


def softly(name, check):
    try:
        return check()
    except errors.ApiError as err:
        return [report.warning(name, err.message, "ask")]


def outcomes(api, pod=POD, *, with_crds=True, attempt=report.plainly, **changes):
    config = release.config(**changes)
    return before.outcomes(release.connect(api), config, pod, with_crds=with_crds, attempt=attempt)


def test_names_of_checks_are_distinct(api):
    names = [outcome.name for outcome in outcomes(api, prewarm=[release.prewarm()])]
    assert len(names) == len(set(names)) == 9


def test_before_an_upgrade_the_crds_are_for_others(api):
    found = outcomes(api, with_crds=False, prewarm=[release.prewarm()])
    assert {"crds", "prewarm"} & {outcome.name for outcome in found} == set()


def test_what_may_not_be_seen_ends_the_program_or_is_an_outcome(api):
    api.refuse("GET", release.NODES, status=403, message="forbidden")
    with pytest.raises(errors.ApiError, match="forbidden"):
        outcomes(api)
    found = {outcome.name: outcome for outcome in outcomes(api, attempt=softly)}
    assert found["nodes"].status is report.Status.WARNING
    assert found["pod-security"].status is report.Status.OK


def test_every_check_runs_under_its_own_name(api):
    """Whatever the API server refuses, each check says so for itself."""
    seen = []

    def note(name, check):
        seen.append(name)
        return check()

    found = outcomes(api, attempt=note, prewarm=[release.prewarm()])
    assert set(seen) - {"runtime-class"} == {outcome.name for outcome in found}
