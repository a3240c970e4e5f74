"""Checkpoints: complete or absent, without pickle."""
