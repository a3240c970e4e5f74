"""The published project's checkpoints: read as they are, or made checkpoints of this project."""
