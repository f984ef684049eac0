"""`python -m ax_operator run|simulate|crds`: the operator, the autoscaler's simulator, the kinds as YAML."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys

from ax_operator.logs import set_up
from ax_operator.settings import SettingsError, load


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status, 2 for a wrong one."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="ax_operator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the operator")
    run.add_argument("--settings", default="/etc/ax/settings.yaml", help="YAML file (default: %(default)s)")
    run.add_argument("--kubeconfig", help="file (default: the pod's account, else $KUBECONFIG or ~/.kube/config)")
    run.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    crds = commands.add_parser("crds", help="write the CustomResourceDefinitions into the checkout")
    crds.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    simulate = commands.add_parser("simulate", help="replay a trace through the autoscaler")
    # Each command imports what it needs alone: the simulator and the kinds must not wait for kopf.
    simulator = importlib.import_module("ax_operator.simulate") if words[:1] == ["simulate"] else None
    if simulator:
        simulator.add_arguments(simulate)
    args = parser.parse_args(words)
    if simulator:
        return int(simulator.run(args))
    if args.command == "crds":
        return int(importlib.import_module("ax_operator.crd_files").main(["--check"] if args.check else []))
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    set_up(args.log_level)
    try:
        settings, process = load(args.settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    asyncio.run(importlib.import_module("ax_operator.control.handlers").run(settings, process, args.kubeconfig))
    return 0


if __name__ == "__main__":
    sys.exit(main())
