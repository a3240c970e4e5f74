"""The objectives: self-distillation, next state, next action, and their weighted sum."""

from .joint import JointLoss, LossParts

__all__ = ["JointLoss", "LossParts"]
