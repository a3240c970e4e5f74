#!/usr/bin/env python3
"""Weighted kNN on frozen features, as `egoagent eval knn` does."""

import sys

from internlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", "knn", *sys.argv[1:]]))
