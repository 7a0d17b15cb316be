# Two images: `chrek` (agent, operator, hooks, CLI) and `chrek-init` (one static program, and the module
# that Python workers may import).
#
#   scripts/build                            on any machine, with or without docker
#   docker build --target chrek -t chrek:0.2.0 .
#
# A private package index or certificate authority comes in as build secrets `pip.conf` and `ca.crt`
# (scripts/build passes this machine's), so nothing of it stays in an image.
ARG BASE=debian:trixie-slim

# chrek-init and chrek-enter: static, because they run inside containers that may hold nothing else.
FROM ${BASE} AS programs
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev linux-libc-dev make musl-tools
COPY src/c /src
ARG VERSION=0.2.0
RUN make -C /src OUT=/objects VERSION="${VERSION}" \
 && install -D -t /out /objects/chrek-init /objects/chrek-enter /objects/criu-shim.so

# CRIU with its own loader and libraries.
FROM ${BASE} AS criu
COPY scripts/criu-bundle /
RUN /criu-bundle /out

# What tests without a cluster use: `scripts/build bundle`.
FROM scratch AS bundle
COPY --from=criu /out /usr/lib/chrek/criu
COPY --from=programs /out /usr/lib/chrek

# Dependencies alone: a change of chrek's own code does not install them again.
FROM ${BASE} AS dependencies
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
COPY requirements.lock requirements-build.lock /src/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --no-deps -r /src/requirements-build.lock \
 && python3 -m venv --without-pip /opt/venv \
 && /opt/build/bin/pip --python /opt/venv/bin/python install \
      --require-hashes --no-deps -r /src/requirements.lock

FROM dependencies AS application
COPY pyproject.toml README.md LICENSE /src/
COPY src/chrek /src/src/chrek
RUN export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
 && /opt/build/bin/pip wheel --no-deps --no-build-isolation -w /wheel /src \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-deps --root /out /wheel/*.whl

FROM scratch AS chrek-init
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="chrek-init" \
      org.opencontainers.image.description="PID 1 of containers that chrek manages" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=programs /out/chrek-init /chrek-init
COPY src/chrek/worker.py /chrek_worker.py
USER 65532:65532
ENTRYPOINT ["/chrek-init"]

FROM ${BASE} AS chrek
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && echo "chrek:x:65532:65532:chrek:/nonexistent:/usr/sbin/nologin" >> /etc/passwd \
 && echo "chrek:x:65532:" >> /etc/group
COPY --from=bundle /usr/lib/chrek /usr/lib/chrek
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=application /out /
COPY hooks /opt/chrek/hooks
# Of each thread's own arena the allocator keeps what a busy moment needed: two do for all of them.
ENV PATH=/opt/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MALLOC_ARENA_MAX=2 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CHREK_LIBEXEC=/usr/lib/chrek
ARG VERSION=0.2.0
LABEL org.opencontainers.image.title="chrek" \
      org.opencontainers.image.description="Checkpoint/restore for LLM inference pods on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# Operator and hooks run as this user; the agent's DaemonSet asks for root.
USER 65532:65532
ENTRYPOINT ["chrek"]
CMD ["--help"]
