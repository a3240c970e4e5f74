#!/usr/bin/env python3
"""Train a config, as `egoagent train` does."""

import sys

from internlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
