"""The command line: `python -m local up|down|status|kubeconfig|images|install`."""

import argparse
import sys

from local import record
from local.cluster import Cluster, take_down
from local.errors import LocalError
from local.progress import say


def main() -> int:
    """Run one command; 1 with a sentence on stderr where it cannot be done."""
    arguments = _parser().parse_args()
    try:
        _COMMANDS[arguments.command](arguments)
    except LocalError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description="A real Kubernetes on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster, or find it running; prints its kubeconfig's path")
    up.add_argument("--name", default="demo")
    up.add_argument("--mode", choices=["control-plane", "node"], default="node")
    up.add_argument("--kwok", action="store_true", help="be able to simulate nodes")
    down = commands.add_parser("down", help="take a cluster down and leave nothing behind")
    which = down.add_mutually_exclusive_group()
    which.add_argument("--name", default="demo")
    which.add_argument("--all", action="store_true")
    commands.add_parser("status", help="list the clusters of this machine")
    kubeconfig = commands.add_parser("kubeconfig", help="print the path of a cluster's kubeconfig")
    kubeconfig.add_argument("--name", default="demo")
    return parser


def _up(arguments: argparse.Namespace) -> None:
    cluster = Cluster.up(arguments.name, arguments.mode, arguments.kwok)
    sys.stdout.write(f"{cluster.kubeconfig}\n")


def _down(arguments: argparse.Namespace) -> None:
    names = [found.name for found in record.known()] if arguments.all else [arguments.name]
    for name in names:
        if not take_down(name):
            say(f"No cluster {name}")


def _status(_: argparse.Namespace) -> None:
    for found in record.known():
        state = "up" if found.alive() else "crashed (down clears it away)"
        kwok = " kwok" if found.kwok else ""
        sys.stdout.write(f"{found.name}  {found.mode}{kwok}  {state}  {found.folder}/admin.kubeconfig\n")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    sys.stdout.write(f"{_found(arguments.name).kubeconfig}\n")


def _found(name: str) -> Cluster:
    cluster = Cluster.find(name)
    if cluster is None:
        raise LocalError(f"No cluster {name} is up; start it with: python -m local up --name {name}")
    return cluster


_COMMANDS = {"up": _up, "down": _down, "status": _status, "kubeconfig": _kubeconfig}

if __name__ == "__main__":
    sys.exit(main())
