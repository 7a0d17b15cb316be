"""What a command says of a cluster that does not know chrek's objects."""

from __future__ import annotations

from chrek import errors, names


def absent(err: errors.ApiError) -> errors.ApiError:
    """The error of a 404 that was answered for the kind, not for an object of it."""
    return errors.ApiError(
        f"the cluster knows no {names.CHECKPOINT_KIND}: {err.message}",
        status=404,
        hint="install the chrek chart, which brings the CRDs",
    )
