"""The gateway's commands.

agent      run the agent beside Envoy
bootstrap  print what Envoy starts from
spend      print what hosted APIs cost on a day, by API, model and client
key        print the Secret of a new client key: `python -m ax_gateway key --name team-a | kubectl apply -f -`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import sys

from pydantic import ValidationError

from ax_gateway.envoy.bootstrap import bootstrap
from ax_gateway.keys import KeyPolicy, key_secret
from ax_gateway.settings import PREFIX, Settings
from ax_operator.logs import set_up


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 2 for settings or limits that are wrong."""
    arguments = _parser().parse_args(argv)
    try:
        settings = Settings.from_env(os.environ)
    except ValidationError as problem:
        for error in problem.errors():
            field = "_".join(str(part) for part in error["loc"]).upper()
            print(f"{PREFIX}{field}: {error['msg']}", file=sys.stderr)
        return 2
    match arguments.command:
        case "bootstrap":
            bounds = (settings.envoy_memory * 9 // 10, settings.connections)
            return _print(bootstrap(settings.socket, settings.admin_socket, settings.node, *bounds))
        case "key":
            return _print_key(arguments, settings.namespace)
    if arguments.command == "spend":
        from ax_gateway.spend import spent  # noqa: PLC0415

        set_up()
        print(asyncio.run(spent(settings.namespace, arguments.day)))
        return 0
    from ax_gateway.agent import serve  # noqa: PLC0415  the bootstrap must not wait for gRPC and the client library

    set_up()
    logging.getLogger("ax_gateway").setLevel(logging.INFO)
    asyncio.run(serve(settings))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ax_gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Settings are read from {PREFIX}* variables.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("agent")
    commands.add_parser("bootstrap")
    spend = commands.add_parser("spend")
    spend.add_argument("--day", help="YYYY-MM-DD in Seoul; today when left out")
    key = commands.add_parser("key")
    key.add_argument("--name", required=True, help="the client's name, which logs and metrics show")
    key.add_argument("--model", action="append", help="a model name that it may use; all when left out")
    key.add_argument("--requests-per-minute", type=int)
    key.add_argument("--tokens-per-minute", type=int)
    key.add_argument("--daily-krw", type=float, help="KRW per day for hosted answers")
    key.add_argument("--on-prem", action="store_true", help="its requests never leave")
    return parser


def _print_key(arguments: argparse.Namespace, namespace: str) -> int:
    try:
        policy = KeyPolicy(
            models=tuple(arguments.model) if arguments.model else None,
            requests_per_minute=arguments.requests_per_minute,
            tokens_per_minute=arguments.tokens_per_minute,
            daily_krw=arguments.daily_krw,
            data_residency="OnPrem" if arguments.on_prem else "Any",
        )
    except ValidationError as problem:
        print("\n".join(f"{error['loc'][0]}: {error['msg']}" for error in problem.errors()), file=sys.stderr)
        return 2
    return _print(key_secret(arguments.name, namespace, f"sk-ax-{secrets.token_urlsafe(32)}", policy))


def _print(found: object) -> int:
    json.dump(found, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
