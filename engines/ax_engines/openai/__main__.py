"""Runs the frontend: `python3 -m ax_engines.openai`."""

import sys

from ax_engines.openai.app import main

sys.exit(main(sys.argv[1:]))
