import pytest

from chrek.checks import report, volume
from fakes import api_server, release

# The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop.
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheaders:DeprecationWarning")

OK, WARNING, FAILED = report.Status.OK, report.Status.WARNING, report.Status.FAILED


@pytest.fixture
def api():
    with api_server.ApiServer() as server:
        yield server


def look(api, **claim):
    wanted = release.config(claim=claim).store
    return volume.storage(release.connect(api), wanted, namespace="team")


def test_a_default_class_of_shared_volumes(api):
    api.add(release.CLASSES, release.storage_class())
    assert look(api) == report.ok("storage", "StorageClass shared (nfs.csi.k8s.io)")


def test_of_two_default_classes_the_newest_counts(api):
    api.add(release.CLASSES, release.storage_class("old", created="2025"))
    api.add(release.CLASSES, release.storage_class("new", created="2026"))
    assert "StorageClass new " in look(api).detail


@pytest.mark.parametrize(
    ("classes", "claim", "status", "detail", "hint"),
    [
        ([], {}, FAILED, "no default StorageClass; there are: none", "storage.pvc.existingClaim"),
        (
            [release.storage_class("a", default=False)],
            {},
            FAILED,
            "no default StorageClass; there are: a",
            "storage.pvc.storageClassName",
        ),
        (
            [release.storage_class("a")],
            {"storageClassName": "b"},
            FAILED,
            "StorageClass 'b': not found; there are: a",
            "storage.pvc.storageClassName",
        ),
        (
            [release.storage_class("a", provisioner="ebs.csi.aws.com")],
            {},
            FAILED,
            "a (ebs.csi.aws.com) makes volumes for one node at a time",
            "storage.pvc.accessModes={ReadWriteOnce}",
        ),
        (
            [release.storage_class("a", provisioner="ebs.csi.aws.com")],
            {"accessModes": ["ReadWriteOnce"]},
            OK,
            "ebs.csi.aws.com",
            "",
        ),
        (
            [release.storage_class("a", provisioner="example.com/new")],
            {},
            WARNING,
            "does not know whether it provides ReadWriteMany",
            "choose another storage.pvc.storageClassName",
        ),
        ([], {"create": False}, FAILED, "claim team/chrek-pvc: not found", "create it"),
    ],
)
def test_no_claim_yet(api, classes, claim, status, detail, hint):
    for body in classes:
        api.add(release.CLASSES, body)
    found = look(api, **claim)
    assert found.status is status
    assert detail in found.detail
    assert hint in found.hint


@pytest.mark.parametrize(
    ("existing", "claim", "status", "detail", "hint"),
    [
        (release.claim(), {}, OK, "claim chrek-pvc, Bound, ReadWriteMany", ""),
        (release.claim(size="50Gi"), {}, OK, "Bound", ""),
        (
            release.claim(size="200Gi"),
            {},
            FAILED,
            "has 200Gi, the values want 100Gi",
            "storage.pvc.size=200Gi: a claim cannot shrink",
        ),
        # The size of a claim that the chart does not make is not the chart's to judge.
        (release.claim(size="200Gi"), {"create": False}, OK, "Bound", ""),
        (
            release.claim(modes=("ReadWriteOnce",)),
            {"create": False},
            FAILED,
            "has ReadWriteOnce, the values want ReadWriteMany",
            "storage.pvc.accessModes={ReadWriteOnce}",
        ),
        (
            release.claim(modes=("ReadWriteOnce", "ReadWriteMany")),
            {"create": False},
            OK,
            "ReadWriteOnce, ReadWriteMany",
            "",
        ),
        (
            release.claim(modes=("ReadWriteOnce", "ReadWriteMany")),
            {},
            FAILED,
            "the values want ReadWriteMany",
            "access modes cannot change",
        ),
        (release.claim(phase="Pending"), {}, WARNING, "not bound yet", "kubectl describe pvc"),
        (release.claim(phase="Lost"), {}, FAILED, "its volume is lost", "delete claim"),
    ],
)
def test_a_claim_exists(api, existing, claim, status, detail, hint):
    api.add(release.CLAIMS, existing)
    found = look(api, **claim)
    assert found.status is status
    assert detail in found.detail
    assert hint in found.hint


def test_a_provisioner_is_of_one_kind():
    assert not volume.ONE_NODE_PROVISIONERS & volume.SHARED_PROVISIONERS
