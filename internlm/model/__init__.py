"""The network: pure tensors in, tensors out, on any device and at any world size."""

from .egoagent import ClipReadout, EgoAgent, EgoNetwork

__all__ = ["ClipReadout", "EgoAgent", "EgoNetwork"]
