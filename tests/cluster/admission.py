"""What the API server says to an object, by a dry run: one request of milliseconds each."""

from __future__ import annotations

import json
import re
from typing import Any

from chrek import errors
from chrek.kube import workstation
from cluster import kube

Object = dict[str, Any]

WARNING = "ignore:HTTPResponse.getheaders:DeprecationWarning"
"""The official client 34 asks urllib3 2.3 for headers in a way that urllib3 will drop."""
PLURALS = {
    "DynamoCheckpoint": "dynamocheckpoints",
    "DynamoGraphDeployment": "dynamographdeployments",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Secret": "secrets",
}
NOISE = re.compile(r", <nil>: Invalid value: null: some validation rules were not checked.*?\]")


class Admission:
    """The API server, asked about objects of one namespace."""

    def __init__(self, connected: kube.Kube) -> None:
        self.namespace = connected.namespace
        self.cluster = workstation.connect(connected.where.kubeconfig)

    def create(self, item: Object, *, validation: str = "Strict") -> Object:
        """The object as it would be stored.

        Raises:
            ApiError: it would be refused.
        """
        version, plural = item["apiVersion"], PLURALS[item["kind"]]
        path = workstation.path(version, plural, self.namespace)
        query = {"dryRun": "All", "fieldValidation": validation}
        return self._answer(self.cluster.request("POST", path, query=query, body=item))

    def change(self, item: Object, spec: Object) -> Object:
        """The object, which exists, after a merge patch of its spec."""
        plural, name = PLURALS[item["kind"]], item["metadata"]["name"]
        data = self.cluster.request(
            "PATCH",
            workstation.path(item["apiVersion"], plural, self.namespace, name),
            query={"dryRun": "All"},
            body={"spec": spec},
            content_type="application/merge-patch+json",
        )
        return self._answer(data)

    def refusal(self, item: Object) -> str:
        """What a person reads who creates this object."""
        try:
            self.create(item)
        except errors.ApiError as err:
            text = err.message.partition(": ")[2]
            return NOISE.sub("", text).partition(" is invalid: ")[2] or text
        raise AssertionError(f"it was accepted: {item}")

    @staticmethod
    def _answer(data: bytes) -> Object:
        made: Object = json.loads(data)
        return made
