"""Everything that can be trained, each a folder; the rest of the package speaks to them through ``base.py`` alone."""
