"""The command line of scripts/cluster."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from devcluster import (
    addresses,
    cache,
    cluster,
    errors,
    nodes,
    prerequisites,
    roots,
    status,
    steps,
    tools,
)

DESCRIPTION = """\
A Kubernetes cluster for development and tests: a control plane on this machine and
nodes in namespaces of their own, with containerd, DNS, a registry, and a default
storage class whose volumes every node sees. It needs Linux and root, no engine.
"""

EPILOG = """\
environment:
  CHREK_CACHE         where builds and the cluster's state lie (default ~/.cache/chrek)
  CHREK_BOOT_OFFSETS  seconds that a node's clocks since boot are ahead, such as n2=259200

examples:
  scripts/cluster up
  export KUBECONFIG=$(scripts/cluster kubeconfig)
  export PATH=$(scripts/cluster tools):$PATH
  scripts/cluster load image.tar
  scripts/cluster exec n1 -- ctr -n k8s.io images list
  scripts/cluster stop n2; scripts/cluster start n2; scripts/cluster start n3
  scripts/cluster down

The first 'up' builds Kubernetes from source: minutes to half an hour, by the machine.
The cluster has no way out: pods reach each other, the nodes, and this machine.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        return _run(cluster.Cluster.of(cache.Cache.from_environment()), options)
    except errors.ClusterError as err:
        steps.say(f"error: {err}")
        if err.hint:
            steps.say(f"({err.hint})")
        return 1
    except KeyboardInterrupt:
        steps.say("interrupted; 'scripts/cluster down' removes what was started")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary)

    up = add("up", "start the cluster, or what of it does not run")
    up.add_argument(
        "--nodes", type=_count, default=2, metavar="N", help="how many nodes to start (default 2)"
    )
    add("down", "remove the cluster; builds and logs stay")
    add("status", "show what runs; the exit status is 1 unless all is well")
    add("kubeconfig", "print the path of the administrator's kubeconfig")
    load = add("load", "give an image to every node, of now and to come")
    load.add_argument(
        "image",
        metavar="TAR_OR_REFERENCE",
        nargs="+",
        help="an image archive, or an image of podman, buildah, or docker",
    )
    start = add("start", "start a node: a stopped one, or a new one such as n3")
    start.add_argument("node", metavar="NODE")
    stop = add("stop", "end a node at once, as a power loss does; its disk stays")
    stop.add_argument("node", metavar="NODE")
    run = add("exec", "run a command inside a node")
    run.add_argument("node", metavar="NODE")
    run.add_argument("argv", metavar="COMMAND", nargs=argparse.REMAINDER)
    build = add(
        "tools", "build helm, helm4, helm-unittest, ct, kubeconform, kubectl; print their folder"
    )
    build.add_argument("--all", action="store_true", help="build the cluster's programs too")
    add("base-image", "make the container base image's root file system; print its tar's path")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= addresses.MAX_NODES:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 1 and {addresses.MAX_NODES}")
    return int(text)


def _run(one: cluster.Cluster, options: argparse.Namespace) -> int:
    command: str = options.command
    if command == "kubeconfig":
        one.client()
        print(one.where.kubeconfig)
        return 0
    if command == "tools":
        with one.locked():
            tools.ensure(one.where, tools.FOR_CHARTS)
            if options.all:
                tools.ensure(one.where, tools.FOR_CLUSTER)
        print(one.where.bin)
        return 0
    if command == "base-image":
        with one.locked():
            print(roots.ensure_base(one.where))
        return 0
    prerequisites.require_root(command)
    if command == "status":
        rows = status.collect(one)
        print(status.show(one, rows))
        return 0 if all(row.well for row in rows) else 1
    if command == "exec":
        return _exec(one, options)
    with one.locked():
        _change(one, options)
    return 0


def _change(one: cluster.Cluster, options: argparse.Namespace) -> None:
    started = time.monotonic()
    if options.command == "up":
        one.up([addresses.Node(number) for number in range(1, options.nodes + 1)])
        steps.say(f"The cluster is up after {time.monotonic() - started:.0f} s. Use it with:")
        steps.say(f"  export KUBECONFIG={one.where.kubeconfig} PATH={one.where.bin}:$PATH")
    elif options.command == "down":
        one.down()
    elif options.command == "start":
        one.start(addresses.Node.parse(options.node))
    elif options.command == "stop":
        one.stop(addresses.Node.parse(options.node))
    elif options.command == "load":
        for image in options.image:
            archive = one.load(image)
            steps.say(f"loaded {', '.join(archive.references)}")


def _exec(one: cluster.Cluster, options: argparse.Namespace) -> int:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise errors.ClusterError(
            "no command to run", hint=f"scripts/cluster exec {options.node} -- COMMAND"
        )
    init = nodes.init_of(one.records, addresses.Node.parse(options.node))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    inside = [*nodes.entering(init), *argv]
    sys.stdout.flush()
    return subprocess.call(inside, env={**os.environ, "PATH": path})
