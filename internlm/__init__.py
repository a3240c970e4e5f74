"""EgoAgent: one causal interleaved transformer that sees, predicts and moves."""

__version__ = "0.1.0"
