"""EgoAgent as a Hugging Face model: the three files that make an exported folder one, how it is checked and read back.

The three are the package's own modules and are copied as they are, beside the modules they import; only the imports between
them are rewritten (``internlm.export.sources``). Nothing else of the package imports them: they need ``transformers``.
"""
