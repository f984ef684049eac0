"""`python -m ax_engines <subcommand>`: the programs of the engine images, each imported only when asked for."""

from __future__ import annotations

import importlib
import sys

_BUILD = "ax_engines.build.__main__"
SUBCOMMANDS = {
    "resolve": _BUILD,
    "fetch": _BUILD,
    "quantize": _BUILD,
    "compile": _BUILD,
    "publish": _BUILD,
    "sweep": _BUILD,
    "openai": "ax_engines.openai.app",
    "plan": "ax_engines.plan_cli",
    "tokens": "ax_engines.tokens_cli",
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit status; 2 for an unknown one.

    The phases of a build share one module, which gets the phase as its first argument; the others get what follows
    their name.
    """
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] not in SUBCOMMANDS:
        sys.stderr.write(f"usage: python -m ax_engines {{{','.join(SUBCOMMANDS)}}} ...\n")
        return 2
    module = SUBCOMMANDS[args[0]]
    run = importlib.import_module(module).main
    return int(run(args if module == _BUILD else args[1:]))


if __name__ == "__main__":
    sys.exit(main())
