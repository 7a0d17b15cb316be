"""The operator: DynamoCheckpoint and DynamoGraphDeployment controllers, pod admission webhook."""

import sys

# kopf imports the official client wherever that is installed. The operator has one of its own, and
# does without 39 MiB.
if "kubernetes" not in sys.modules:
    sys.modules["kubernetes"] = None  # type: ignore[assignment]
    import kopf  # noqa: F401

    del sys.modules["kubernetes"]
