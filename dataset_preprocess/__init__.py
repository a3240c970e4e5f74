"""Turns recordings into a take store. Nothing here imports torch: it runs on any CPU node."""
