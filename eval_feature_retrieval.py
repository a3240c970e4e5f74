#!/usr/bin/env python3
"""Next-state retrieval, as `egoagent eval retrieval` does."""

import sys

from internlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", "retrieval", *sys.argv[1:]]))
