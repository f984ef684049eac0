#!/usr/bin/env python3
"""Stand-in for quantize.py; see tests/standins/toolchain.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.standins.toolchain import main

if __name__ == "__main__":
    sys.exit(main("quantize", sys.argv[1:]))
