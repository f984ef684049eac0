#!/usr/bin/env python3
"""Stand-in for hf_ptq.py; see tests/standins/toolchain.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.standins.toolchain import main

if __name__ == "__main__":
    sys.exit(main("hf_ptq", sys.argv[1:]))
