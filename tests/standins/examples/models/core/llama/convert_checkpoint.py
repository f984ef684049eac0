#!/usr/bin/env python3
"""Stand-in for convert_checkpoint.py; see tests/standins/toolchain.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[6]))

from tests.standins.toolchain import main

if __name__ == "__main__":
    sys.exit(main("convert_checkpoint_llama", sys.argv[1:]))
