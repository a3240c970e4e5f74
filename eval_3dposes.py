#!/usr/bin/env python3
"""Next-motion errors, as `egoagent eval motion` does."""

import sys

from internlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", "motion", *sys.argv[1:]]))
