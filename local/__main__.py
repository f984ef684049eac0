"""The command line: `python -m local up|down|status|kubeconfig|images|install`."""

import argparse
import sys
from pathlib import Path

from local import demo, images, record
from local.cluster import Cluster, take_down
from local.errors import LocalError
from local.lifecycle import prepare
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
    install = commands.add_parser("install", help="install and build everything ahead of time")
    install.add_argument("--mode", choices=["control-plane", "node"], default="node")
    commands.add_parser("demo", help="a cluster, the operator, a model, an answer")
    _image_commands(commands.add_parser("images", help="build, load or push container images"))
    return parser


def _image_commands(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build what changed; prints the archives")
    load = actions.add_parser("load", help="import archives, or our images, into a cluster's node")
    load.add_argument("--name", default="demo", help="the cluster")
    load.add_argument("images", nargs="*", metavar="IMAGE", help="an image of ours or an archive (default: all ours)")
    push = actions.add_parser("push", help="build for production and push; prints the references")
    push.add_argument("--registry", required=True)
    push.add_argument("--base", default="", help="build the images named on this instead of their own base")
    for parser_with_names in (build, push):
        parser_with_names.add_argument("images", nargs="*", metavar="IMAGE")


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


def _install(arguments: argparse.Namespace) -> None:
    prepare(arguments.mode, kwok=True)


def _demo(_: argparse.Namespace) -> None:
    demo.run()


def _images(arguments: argparse.Namespace) -> None:
    if arguments.action == "build":
        for archive in images.build_all(arguments.images).values():
            sys.stdout.write(f"{archive}\n")
    elif arguments.action == "load":
        files = [Path(name) for name in arguments.images if Path(name).is_file()]
        ours = [name for name in arguments.images if not Path(name).is_file()]
        built = [] if files and not ours else list(images.build_all(ours).values())
        _found(arguments.name).load_images([*files, *built])
    else:
        for reference in images.push(arguments.registry, arguments.images, arguments.base):
            sys.stdout.write(f"{reference}\n")


def _found(name: str) -> Cluster:
    cluster = Cluster.find(name)
    if cluster is None:
        raise LocalError(f"No cluster {name} is up; start it with: python -m local up --name {name}")
    return cluster


_COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "install": _install,
    "images": _images,
    "demo": _demo,
}

if __name__ == "__main__":
    sys.exit(main())
