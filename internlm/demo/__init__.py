"""The demo: a small world, both training stages, every evaluation, one page."""
