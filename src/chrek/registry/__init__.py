"""A small client of container registries.

    image = reference.parse("ghcr.io/acme/worker:2")
    async with client.Client(image.registry, credential=found) as registry:
        answer = await registry.manifest(image)
        config = await registry.blob(image.repository, answer.manifest.config, limit=4 << 20)

    client       who asks, what is tried again, where it is redirected; reads images
    blobs        uploads, and reads in part
    manifests    uploads, tags, deletions
    session      HTTP: connections, TLS, limits
    tokens       proof of who asks, for a scope
    challenge    what proof a registry wants
    keyring      credentials of pull secrets
    reference    names of images
    words        what failures are called

Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""
