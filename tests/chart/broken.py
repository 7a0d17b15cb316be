"""Environments in which an installation cannot work, or not as wanted, and what its user reads.

Each is made for real on the cluster of the tests, by objects and values; `NAMESPACE` stands for the
release's namespace. The hook's own checks look at it. What a namespace or the values lack comes
before anything is installed; what goes wrong on a node or between the components afterwards is in
tests/system/test_node_checks.py and tests/e2e/test_broken.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

NAMESPACE = "chart-broken-environments"
OTHER = "chart-broken-other"

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """One that is broken.

    Attributes:
        name: what is wrong.
        check: which check finds it.
        says: what stands in its line.
        do: what stands in the line that says what to do.
        fails: whether the installation ends; otherwise it is a warning.
        objects: what is made before, and deleted after.
        values: options for helm.
        labels: of the namespace, for as long as the checks look.
        edit: changes what the chart tells the hook.
        crds: what the chart brings, in place of its own.
        settles: the API server goes by the objects only after a while.
    """

    name: str
    check: str
    says: str
    do: str
    fails: bool = True
    objects: tuple[Object, ...] = ()
    values: tuple[str, ...] = ()
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    edit: Callable[[Object], None] | None = None
    crds: tuple[Object, ...] = ()
    settles: bool = False


def _class(name: str, provisioner: str) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _claim(name: str, *, mode: str = "ReadWriteMany", size: str = "1Gi", of: str = "") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": [mode],
            "storageClassName": of or "none-such",
            "resources": {"requests": {"storage": size}},
        },
    }


def _secret(name: str, *, kind: str = "Opaque", **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": kind,
        "stringData": data,
    }


def _config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {key.replace("_", "."): text for key, text in data.items()},
    }


def _quota(**hard: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": NAMESPACE},
        "spec": {"hard": {key.replace("_", "."): value for key, value in hard.items()}},
    }


def _prewarm(**spec: Any) -> tuple[str, ...]:
    import json

    whole = {
        "identity": {"model": "m", "backendFramework": "vllm"},
        "job": {"podTemplateSpec": {"spec": {"containers": [{"name": "main", "image": "i"}]}}},
        **spec,
    }
    return (f"--set-json=checkpoint.prewarm={json.dumps([{'name': 'llama', 'spec': whole}])}",)


def _one_node(name: str, provisioner: str) -> Environment:
    return Environment(
        name=f"block storage: {provisioner}",
        objects=(_class(name, provisioner),),
        values=(f"--set=storage.pvc.storageClassName={name}",),
        check="storage",
        says=f"StorageClass {name} ({provisioner}) makes volumes for one node at a time",
        do="set storage.pvc.storageClassName to a class of shared file systems",
    )


def _release_of_others() -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": "chart-broken-other-chrek",
            "labels": {"app.kubernetes.io/part-of": "chrek"},
            "annotations": {
                "meta.helm.sh/release-name": "chrek",
                "meta.helm.sh/release-namespace": OTHER,
            },
        },
        "webhooks": [
            {
                "name": "pods.chrek.nvidia.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Ignore",
                # Nobody is ever asked: no object has this label.
                "objectSelector": {"matchLabels": {"chrek.test/none": "such"}},
                "clientConfig": {"url": "https://127.0.0.1:1/none"},
                "namespaceSelector": {
                    "matchExpressions": [
                        {
                            "key": "kubernetes.io/metadata.name",
                            "operator": "In",
                            "values": [OTHER, NAMESPACE],
                        }
                    ]
                },
            }
        ],
    }


def _refuses_pods() -> tuple[Object, ...]:
    """Another policy engine's doing."""
    name = "chart-broken-no-host-path"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ]
            },
            "validations": [
                {
                    "expression": "!object.spec.volumes.exists(v, has(v.hostPath))",
                    "message": "our platform team allows no hostPath",
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
            },
        },
    }
    return policy, binding


S3 = (
    "--set=checkpoint.storage.type=s3",
    # Nobody listens there.
    "--set=checkpoint.storage.s3.uri=s3://127.0.0.1:1/bucket",
    "--set=checkpoint.storage.s3.plainHttp=true",
)
OCI = (
    "--set=checkpoint.storage.type=oci",
    "--set=checkpoint.storage.oci.uri=oci://127.0.0.1:1/checkpoints",
    "--set=checkpoint.storage.oci.plainHttp=true",
)
WITH_KEY = (*S3, "--set=checkpoint.storage.s3.credentialsSecretRef=s3-creds")
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


OTHER_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "chartbrokens.chrek.test"},
    "spec": {
        "group": "chrek.test",
        "scope": "Namespaced",
        "names": {"kind": "ChartBroken", "plural": "chartbrokens", "singular": "chartbroken"},
        "versions": [
            {
                "name": "v1beta9",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }
        ],
    },
}


BAD_CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "chartbads.chrek.test"},
    "spec": {
        **OTHER_CRD["spec"],
        "names": {"kind": "ChartBad", "plural": "chartbads", "singular": "chartbad"},
        "scope": "",
    },
}


def _no_identity(release: Object) -> None:
    release["identities"] = [{"model": "m", "backendFramework": "tgi"}]


STORES = (
    Environment(
        name="no such StorageClass",
        values=("--set=storage.pvc.storageClassName=none-such",),
        check="storage",
        says="StorageClass 'none-such': not found; there are: ",
        do="set storage.pvc.storageClassName to one that provides ReadWriteMany volumes",
    ),
    _one_node("broken-ebs", "ebs.csi.aws.com"),
    _one_node("broken-gce", "pd.csi.storage.gke.io"),
    _one_node("broken-azure", "disk.csi.azure.com"),
    _one_node("broken-old-aws", "kubernetes.io/aws-ebs"),
    _one_node("broken-topolvm", "topolvm.io"),
    Environment(
        name="a provisioner that chrek does not know",
        objects=(_class("broken-own", "storage.example.com"),),
        values=("--set=storage.pvc.storageClassName=broken-own",),
        check="storage",
        says="StorageClass broken-own (storage.example.com): chrek does not know whether it",
        do="if claim chrek-pvc stays Pending, choose another storage.pvc.storageClassName",
        fails=False,
    ),
    Environment(
        name="the claim that is named does not exist",
        values=("--set=storage.pvc.existingClaim=mine",),
        check="storage",
        says=f"claim {NAMESPACE}/mine: not found",
        do="create it, or have it made: storage.pvc.create=true",
    ),
    Environment(
        name="the claim that is named has the wrong access mode",
        objects=(_claim("mine", mode="ReadWriteOnce"),),
        values=("--set=storage.pvc.existingClaim=mine",),
        check="storage",
        says="claim mine has ReadWriteOnce, the values want ReadWriteMany",
        do="set storage.pvc.accessModes={ReadWriteOnce}, or use another claim",
    ),
    Environment(
        name="the claim that is named is not bound",
        objects=(_claim("mine"),),
        values=("--set=storage.pvc.existingClaim=mine",),
        check="storage",
        says="claim mine is not bound yet",
        do="see kubectl describe pvc mine",
        fails=False,
    ),
    Environment(
        name="a claim of the chart's name has another access mode",
        objects=(_claim("chrek-pvc", mode="ReadWriteOnce"),),
        check="storage",
        says="claim chrek-pvc has ReadWriteOnce, the values want ReadWriteMany",
        do="access modes cannot change",
    ),
    Environment(
        name="a claim of the chart's name is larger than the values",
        objects=(_claim("chrek-pvc", size="200Gi"),),
        check="storage",
        says="claim chrek-pvc has 200Gi, the values want 100Gi",
        do="set storage.pvc.size=200Gi: a claim cannot shrink",
    ),
    Environment(
        name="no Secret for the bucket",
        values=WITH_KEY,
        check="credentials",
        says=f"Secret {NAMESPACE}/s3-creds: not found",
        do="run kubectl create secret generic s3-creds --from-literal=AWS_ACCESS_KEY_ID=...",
    ),
    Environment(
        name="the bucket's Secret lacks a key",
        objects=(_secret("s3-creds", AWS_ACCESS_KEY_ID="a", accesskey="b"),),
        values=WITH_KEY,
        check="credentials",
        says="has no AWS_SECRET_ACCESS_KEY; it has: AWS_ACCESS_KEY_ID, accesskey",
        do="add it to the Secret, or correct",
    ),
    Environment(
        name="a key of the bucket's Secret is empty",
        objects=(_secret("s3-creds", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY=""),),
        values=WITH_KEY,
        check="credentials",
        says="has no AWS_SECRET_ACCESS_KEY; it has: AWS_ACCESS_KEY_ID",
        do="add it to the Secret, or correct",
    ),
    Environment(
        name="no Secret for the registry",
        values=(*OCI, "--set=checkpoint.storage.oci.credentialsSecretRef=registry-creds"),
        check="credentials",
        says=f"Secret {NAMESPACE}/registry-creds: not found",
        do="run kubectl create secret docker-registry registry-creds",
    ),
    Environment(
        name="the registry's Secret is one of user and password",
        objects=(_secret("registry-creds", username="a", password="b"),),
        values=(*OCI, "--set=checkpoint.storage.oci.credentialsSecretRef=registry-creds"),
        check="credentials",
        says="has no .dockerconfigjson; it has: password, username",
        do="add it to the Secret, or correct",
    ),
    Environment(
        name="no certificate authorities",
        values=(*S3, "--set=checkpoint.storage.s3.caBundle=authorities"),
        check="certificates",
        says=f"ConfigMap {NAMESPACE}/authorities: not found",
        do="run kubectl create configmap authorities",
    ),
    Environment(
        name="certificate authorities under another key",
        objects=(_config_map("authorities", bundle_pem="x"),),
        values=(*S3, "--set=checkpoint.storage.s3.caBundle=authorities"),
        check="certificates",
        says=f"ConfigMap {NAMESPACE}/authorities has no ca.crt",
        do="--from-file=ca.crt",
    ),
    Environment(
        name="certificate authorities that are none",
        objects=(_config_map("authorities", ca_crt="not a certificate"),),
        values=(*S3, "--set=checkpoint.storage.s3.caBundle=authorities"),
        check="certificates",
        says="ca.crt cannot be read as certificates in PEM",
        do="run kubectl create configmap authorities",
    ),
    Environment(
        name="no Secret with the encryption key",
        values=(*S3, "--set=checkpoint.storage.encryption.keySecretRef=chrek-key"),
        check="encryption",
        says=f"Secret {NAMESPACE}/chrek-key: not found",
        do='--from-literal=key="$(head -c 32 /dev/urandom | base64)"',
    ),
    Environment(
        name="the encryption key under another name",
        objects=(_secret("chrek-key", passphrase="x"),),
        values=(*S3, "--set=checkpoint.storage.encryption.keySecretRef=chrek-key"),
        check="encryption",
        says=f"Secret {NAMESPACE}/chrek-key has no key; it has: passphrase",
        do="add it to the Secret, or correct",
    ),
    Environment(
        name="the bucket's server does not answer",
        objects=(_secret("s3-creds", **KEYS),),
        values=WITH_KEY,
        check="server",
        says="http://127.0.0.1:1 does not answer here: ",
        do="correct dynamo-operator.checkpoint.storage.s3, unless only agents can reach it",
        fails=False,
    ),
    Environment(
        name="the registry has no such name",
        values=(
            "--set=checkpoint.storage.type=oci",
            "--set=checkpoint.storage.oci.uri=oci://registry.invalid/checkpoints",
        ),
        check="server",
        says="https://registry.invalid does not answer here: ",
        do="correct dynamo-operator.checkpoint.storage.oci, unless only agents can reach it",
        fails=False,
    ),
)

ADMISSION = (
    *(
        Environment(
            name=f"the namespace enforces Pod Security {level}",
            labels={"pod-security.kubernetes.io/enforce": level},
            check="pod-security",
            says=f'violates PodSecurity "{level}:latest"',
            do=f"run kubectl label namespace {NAMESPACE} "
            "pod-security.kubernetes.io/enforce=privileged --overwrite",
        )
        for level in ("restricted", "baseline")
    ),
    Environment(
        name="the namespace's quota is used up",
        objects=(_quota(requests_memory="64Mi"),),
        check="pod-security",
        says="exceeded quota: small",
        do=f"raise the quota of namespace {NAMESPACE}, or set agent.resources to fit it",
    ),
    Environment(
        name="the namespace's quota wants limits",
        objects=(_quota(limits_memory="10Gi"),),
        check="pod-security",
        says="failed quota: small: must specify limits.memory",
        do=f"raise the quota of namespace {NAMESPACE}, or set agent.resources to fit it",
    ),
    Environment(
        name="a LimitRange allows less than the agent wants",
        objects=(
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "narrow", "namespace": NAMESPACE},
                "spec": {"limits": [{"type": "Container", "max": {"memory": "16Mi"}}]},
            },
        ),
        check="pod-security",
        says="must be less than or equal to memory limit of 16Mi",
        do="correct what the message names",
    ),
    Environment(
        name="no such priority class",
        values=("--set=agent.priorityClassName=none-such",),
        check="pod-security",
        says="no PriorityClass with name none-such was found",
        do="correct what the message names",
    ),
    Environment(
        name="no such RuntimeClass",
        values=("--set=agent.runtimeClassName=nvidia",),
        check="runtime-class",
        says="RuntimeClass nvidia: not found",
        do="correct agent.runtimeClassName, or leave it empty",
    ),
    Environment(
        name="a RuntimeClass that is a sandbox",
        objects=(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "chart-broken-sandbox"},
                "handler": "runsc",
            },
        ),
        values=("--set=agent.runtimeClassName=chart-broken-sandbox",),
        check="runtime-class",
        says="RuntimeClass chart-broken-sandbox is a sandbox (runsc)",
        do="leave agent.runtimeClassName empty",
    ),
)

NODES = (
    Environment(
        name="no node has the label",
        values=("--set=agent.nodeSelector.pool=gpu",),
        check="nodes",
        says="none of 2 is for agents: 2 with no label pool=gpu",
        do="correct agent.nodeSelector and agent.affinity. Until then every pod starts cold",
        fails=False,
    ),
    Environment(
        name="nothing labels GPU nodes",
        values=("--set=agent.nodes=gpu",),
        check="nodes",
        says="none of 2 is for agents: 2 with labels that the affinity does not want",
        do="labels of GPUs come from the GPU operator or node-feature-discovery: install one",
        fails=False,
    ),
    Environment(
        name="agents of another architecture",
        values=("--set=agent.nodeSelector.kubernetes\\.io/arch=arm64",),
        check="nodes",
        says="2 with no label kubernetes.io/arch=arm64",
        do="correct agent.nodeSelector",
        fails=False,
    ),
)

OBJECTS = (
    Environment(
        name="a namespace that is to be served does not exist",
        values=(f"--set=dynamo-operator.watchNamespaces={{{NAMESPACE},no-such-team}}",),
        check="namespaces",
        says="no-such-team: not found",
        do="run kubectl create namespace no-such-team, or take it out of",
    ),
    Environment(
        name="another release serves the namespace",
        objects=(_release_of_others(),),
        check="releases",
        says=f"{NAMESPACE}: served by release {OTHER}/chrek, and by {NAMESPACE}/chrek",
        do="take it out of dynamo-operator.watchNamespaces of one of them",
    ),
    Environment(
        name="a CRD of another version, of another chart",
        objects=(OTHER_CRD,),
        crds=(OTHER_CRD,),
        check="chartbrokens.chrek.test",
        says="version v1alpha1 is not served",
        do="upgrade what installed it",
    ),
    Environment(
        name="a CRD that the API server does not take",
        crds=(BAD_CRD,),
        check="chartbads.chrek.test",
        says="spec.scope: Required value",
        do="run kubectl apply --server-side -f",
    ),
    Environment(
        name="an identity that nobody can hash",
        edit=_no_identity,
        check="identities",
        says="identities[0].backendFramework",
        do="correct the values",
    ),
    Environment(
        name="a checkpoint of the values has an identity that nobody can hash",
        values=_prewarm(identity={"model": "m", "backendFramework": "tgi"}),
        check="prewarm",
        says=f"{NAMESPACE}/llama: spec.identity.backendFramework",
        do="correct dynamo-operator.checkpoint.prewarm",
    ),
    Environment(
        name="a checkpoint of the values has no container",
        values=_prewarm(job={"podTemplateSpec": {"spec": {"containers": []}}}),
        check="prewarm",
        says=f"{NAMESPACE}/llama: spec.job.podTemplateSpec.spec.containers: required",
        do="correct dynamo-operator.checkpoint.prewarm",
    ),
    Environment(
        name="a checkpoint of the values has a policy that there is not",
        values=_prewarm(deletionPolicy="Keep"),
        check="prewarm",
        says='spec.deletionPolicy: Unsupported value: "Keep"',
        do="correct dynamo-operator.checkpoint.prewarm",
    ),
    Environment(
        name="a checkpoint of the values is somebody else's already",
        objects=(
            {
                "apiVersion": "nvidia.com/v1alpha1",
                "kind": "DynamoCheckpoint",
                "metadata": {"name": "llama", "namespace": NAMESPACE},
                "spec": {
                    "identity": {"model": "m", "backendFramework": "vllm"},
                    "job": {
                        "podTemplateSpec": {"spec": {"containers": [{"name": "a", "image": "i"}]}}
                    },
                },
            },
        ),
        values=_prewarm(),
        check="prewarm",
        says=f"{NAMESPACE}/llama: exists and was not made by this release, it is left as it is",
        do="nothing, if that is meant; else choose another name",
        fails=False,
    ),
)

POLICY = Environment(
    name="a policy allows no hostPath",
    objects=_refuses_pods(),
    settles=True,
    check="pod-security",
    says="our platform team allows no hostPath",
    do=f"make namespace {NAMESPACE} admit the agent",
)
"""It goes on for a while when it is deleted: it comes last."""

ALL = (*STORES, *ADMISSION, *NODES, *OBJECTS, POLICY)
