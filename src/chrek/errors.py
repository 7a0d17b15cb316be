"""Every error that chrek raises on purpose.

A subclass exists only where somebody acts differently on it. The message says what failed, with
the value that failed; the hint says what to do. Nothing below the programs turns an error into
output or into an exit code: `chrek.cli` prints it, the agent makes a log line, an Event and a pod
condition of it, a hook writes it to its termination log.
"""

from __future__ import annotations

from chrek import names


class ChrekError(Exception):
    """Base of all errors with a message for a person.

    Attributes:
        reason: CamelCase word that events, conditions and the fall-back line carry.
        exit_code: process exit code of the `chrek` command (3-99, unique for each subclass).
        retryable: whether the same operation may succeed when it is tried again unchanged.
    """

    reason: str = names.Reason.INTERNAL_ERROR
    exit_code: int = 3
    retryable: bool = False

    def __init__(self, message: str, *, hint: str | None = None, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(ChrekError):
    """An object, a file or a value that a user wrote cannot be used."""

    reason = names.Reason.INVALID_SPEC
    exit_code = 4


class ConfigError(ChrekError):
    """The program's own configuration cannot be used."""

    reason = names.Reason.INVALID_CONFIG
    exit_code = 5


class ToolError(ChrekError):
    """A program that chrek started failed.

    Attributes:
        argv: the command line.
        returncode: exit status; negative for a signal, as in `subprocess`.
        log: the error lines of its log with their context, truncated.
    """

    reason = names.Reason.TOOL_FAILED
    exit_code = 10
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        argv: list[str] | None = None,
        returncode: int | None = None,
        log: str = "",
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.argv = argv or []
        self.returncode = returncode
        self.log = log[-4096:]


class CriuError(ToolError):
    """CRIU could not dump or restore."""

    reason = names.Reason.CRIU_FAILED
    exit_code = 11


class GpuError(ChrekError):
    """The CUDA driver, or the helper that calls it, could not do what it was asked.

    Attributes:
        code: the driver's name for the error, such as `CUDA_ERROR_NOT_READY`; empty when it is not
            the driver's.
        unasked: nothing was done, and another helper process may do better.
    """

    reason = names.Reason.GPU_UNAVAILABLE
    exit_code = 12
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        unasked: bool = False,
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.code = code
        self.unasked = unasked


class ArtifactError(ChrekError):
    """A stored artifact is missing, damaged, too new or hostile."""

    reason = names.Reason.ARTIFACT_CORRUPT
    exit_code = 20


class PrivilegeError(ChrekError):
    """An artifact asks for more privilege than the new container has."""

    reason = names.Reason.PRIVILEGE_MISMATCH
    exit_code = 21


class CompatibilityError(ChrekError):
    """The new container differs from the captured one where that matters."""

    reason = names.Reason.INCOMPATIBLE
    exit_code = 22


class UnsupportedError(ChrekError):
    """A pod, process or node uses something that cannot be checkpointed or restored."""

    reason = names.Reason.UNSUPPORTED
    exit_code = 23


class StoreError(ChrekError):
    """The store cannot be read or written."""

    reason = names.Reason.STORE_FAILED
    exit_code = 24
    retryable = True


class PeerError(ChrekError):
    """Whoever called the agent's socket is not whom the kernel and the API say it should be."""

    reason = names.Reason.PEER_REFUSED
    exit_code = 25


class CheckpointError(ChrekError):
    """A checkpoint that was waited for has failed or is not Ready in time."""

    reason = names.Reason.JOB_FAILED
    exit_code = 26


class ApiError(ChrekError):
    """The Kubernetes API server refused or did not answer.

    Attributes:
        status: HTTP status code; 0 when there was no answer.
    """

    reason = names.Reason.API_FAILED
    exit_code = 30
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.status = status


class RegistryError(ChrekError):
    """A container registry refused or did not answer.

    Attributes:
        status: HTTP status code; 0 when there was no answer or none that can be used.
        denied: it wants proof of who asks, or other proof than it got.
        wait: seconds that it asked to be left alone for.
    """

    reason = names.Reason.REGISTRY_FAILED
    exit_code = 31
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        denied: bool = False,
        wait: float = 0.0,
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, reason=reason)
        self.status = status
        self.denied = denied
        self.wait = wait


def log_of(err: Exception) -> str:
    """What the program that failed had logged; empty where there is none."""
    return err.log if isinstance(err, ToolError) else ""
