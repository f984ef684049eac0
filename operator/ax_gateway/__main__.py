"""`python -m ax_gateway agent` runs the agent; `python -m ax_gateway bootstrap` prints what Envoy starts from."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys

from pydantic import ValidationError

from ax_gateway.envoy.bootstrap import bootstrap
from ax_gateway.settings import PREFIX, Settings
from ax_operator.logs import set_up


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 2 for settings that are wrong."""
    parser = argparse.ArgumentParser(
        prog="ax_gateway", description=__doc__, epilog=f"Settings are read from {PREFIX}* variables."
    )
    parser.add_argument("command", choices=["agent", "bootstrap"])
    command = parser.parse_args(argv).command
    try:
        settings = Settings.from_env(os.environ)
    except ValidationError as problem:
        for error in problem.errors():
            field = "_".join(str(part) for part in error["loc"]).upper()
            print(f"{PREFIX}{field}: {error['msg']}", file=sys.stderr)
        return 2
    if command == "bootstrap":
        json.dump(bootstrap(settings.socket, settings.admin_socket, settings.node), sys.stdout, indent=1)
        print()
        return 0
    from ax_gateway.agent import serve  # noqa: PLC0415  the bootstrap must not wait for gRPC and the client library

    set_up()
    logging.getLogger("ax_gateway").setLevel(logging.INFO)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
