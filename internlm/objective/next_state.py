"""L_pred: the predicted next state against the observer's view of the real next frame (spec §4.2)."""

import torch
from torch import Tensor, nn

from internlm.core.collectives import ALONE, Group

from .self_distillation import entropy, head_cross_entropy


def next_state_cross_entropy(
    head: nn.Module, state: Tensor, targets: Tensor, *, temperature: float, chunk: int, vocab: Group = ALONE
) -> Tensor:
    """Cross-entropy of S'_{t+1} (hidden ``[B, T, h]``) against teacher probabilities of S_{t+1} ``[B, T, K]`` -> ``[B, T]``."""
    rows = torch.arange(state.shape[0] * state.shape[1], device=state.device)
    losses = head_cross_entropy(
        head, state.flatten(0, 1), targets.flatten(0, 1), rows, temperature=temperature, chunk=chunk, vocab=vocab
    )
    return losses.view(state.shape[:2])


@torch.no_grad()
def next_state_kl(head: nn.Module, state: Tensor, targets: Tensor, *, temperature: float, chunk: int = 1024) -> Tensor:
    """KL(S_{t+1} || S'_{t+1}) = cross-entropy minus the teacher's entropy, ``[B, T]``.

    The cross-entropy alone moves with the teacher's sharpness and misleads; this is the figure to judge a prediction by.
    """
    return next_state_cross_entropy(head, state, targets, temperature=temperature, chunk=chunk) - entropy(targets)
