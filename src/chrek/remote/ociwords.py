"""What a user does about the answers of a registry that is a store."""

from __future__ import annotations

from collections.abc import Mapping

SECRET = "storage.oci.credentialsSecretRef"  # noqa: S105 - a name
READ_ONLY = "{registry} cannot be written: is it read-only, or a cache of another registry?"
HINTS: Mapping[str, str] = {
    "QUOTA": "its quota is used up: raise it, or delete checkpoints and run the registry's garbage"
    " collection",
    "DENIED": f"the user of the Secret of {SECRET} needs to pull, push and delete here; some"
    " registries say so too when the project does not exist",
    "NAME_UNKNOWN": "make the repository, or its project: {registry} does not make it by itself",
    "MANIFEST_BLOB_UNKNOWN": "a pack went away before the artifact was there: let the registry"
    " collect garbage only while nobody writes; the next capture sends it again",
    "UNSUPPORTED": READ_ONLY,
    "403": f"the user of the Secret of {SECRET} needs to pull, push and delete here",
    "404": "check storage.oci.uri: is it a registry, and is there such a repository or project?",
    "405": READ_ONLY,
    "413": "a proxy before {registry} takes no body so large: let it take 64 MiB, with nginx by"
    " client_max_body_size",
    "429": f"it limits requests: wait, or raise the limit for the user of the Secret of {SECRET}",
    "507": "its storage is full: give it more, or delete checkpoints and run its garbage"
    " collection",
    "5xx": "see the registry's log; what failed is tried again with the next capture or restore",
    "CERTIFICATE": "the certificate of {registry} is of an authority that is not known here: name"
    " a ConfigMap that has it in storage.oci.caBundle",
    "PLAINTEXT": "set storage.oci.plainHttp if {registry} has no TLS",
    "UNREACHABLE": "can the nodes and the release's namespace reach {registry}?",
}
