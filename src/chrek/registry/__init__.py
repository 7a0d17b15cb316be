"""A small client of container registries.

    image = reference.parse("ghcr.io/acme/worker:2")
    async with client.Client(image.registry, credential=found) as registry:
        answer = await registry.manifest(image)
        config = await registry.blob(image.repository, answer.manifest.config, limit=4 << 20)

Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""
