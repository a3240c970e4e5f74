#!/usr/bin/env python3
"""Checkpoint to a Hugging Face folder (--src_folder, --tgt_folder, --remove_vq_embed), as `egoagent export` does."""

import sys

from internlm.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
