"""Does the predicted next state depend on the action? KL with the true, a foreign and no action at the same frames.

KL(S_{t+1} || S'_{t+1}) = cross-entropy minus the teacher's entropy. Only a_t is changed, one step at a time: frames,
earlier actions and the poses observed before the chunk stay true, so nothing but the action can explain a difference.
"""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from internlm.data.batch import ClipBatch, to_device
from internlm.eval.errors import EvalError
from internlm.eval.report.page import Figure
from internlm.objective.next_state import next_state_kl
from internlm.systems.egoagent.clips import normalise_clip
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent

ACTIONS = ("true", "shuffled", "zero")


@torch.no_grad()
def prediction_kl(
    agent: EgoAgent,
    loss: JointLoss,
    batches: Sequence[ClipBatch],
    *,
    actions: tuple[str, ...] = ACTIONS,
    fit_center: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Mean KL in nats over clips and steps for each kind of action.

    Beside them: ``constant``, the KL of the best prediction that never changes (the teacher's mean, fitted to these very
    clips), without which a small KL means nothing, since the targets themselves may hardly differ; ``teacher_entropy``;
    and ``uniform_entropy`` = ln K, which it would have if the targets said nothing.

    ``loss`` holds the trained centre and temperatures (the final teacher temperature is used). ``shuffled`` gives each clip
    the chunk of another clip of its batch at the same step, so batches need two clips; a last batch of one is left out.
    The batches must be mixed over the takes (``evaluation_clips(..., mixed=True)``; EvalError otherwise): Sinkhorn targets are
    balanced within a batch, where the near-duplicates of one take would compete for prototypes as they never do in training.
    ``fit_center`` replaces the centre by the mean of the teacher's logits over these batches: before stage 2 there is no
    trained one, and none at all would make the targets of the first step needlessly hard.
    """
    _check_mixed(batches)
    agent, loss = agent.to(device).eval(), copy.deepcopy(loss).to(device).eval()
    if fit_center and loss.pred_targets.kind == "centering":
        loss.pred_targets.center.copy_(_mean_logits(agent, batches, device))
    sums = dict.fromkeys((*actions, "teacher_entropy"), 0.0)
    total, count = torch.zeros_like(loss.pred_targets.center, dtype=torch.float64), 0
    target_temp, temperature = loss.pred_temperatures(loss.config.teacher_temp)
    for batch in batches:
        if "shuffled" in actions and len(batch.images) < 2:
            continue
        batch = to_device(batch, device)
        images = normalise_clip(batch.images)
        targets = loss.pred_targets(_teacher_logits(agent, images), target_temp)
        for kind in actions:
            state = torch.stack(list(_states(agent, images, batch, kind)), dim=1)
            kl = next_state_kl(agent.predictor.head, state, targets, temperature=temperature)
            sums[kind] += float(kl.double().sum())
        sums["teacher_entropy"] += float(torch.special.entr(targets.double()).sum())
        total += targets.flatten(0, 1).double().sum(0)
        count += targets[..., 0].numel()
    if not count:
        raise EvalError("the action check needs a batch of at least two clips; give it more held-out data")
    means = {name: value / count for name, value in sums.items()}
    constant = float(torch.special.entr(total / count).sum()) - means["teacher_entropy"]
    return means | {"constant": constant, "uniform_entropy": math.log(len(total))}


def _check_mixed(batches: Sequence[ClipBatch]) -> None:
    """EvalError for batches that hold take after take; one take, or one batch, is as mixed as it can be."""
    takes = torch.cat([batch.takes for batch in batches]) if batches else torch.empty(0)
    if len(batches) > 1 and len(takes.unique()) > 1 and bool((takes[1:] >= takes[:-1]).all()):
        raise EvalError("the action check needs batches whose clips are mixed over the takes: evaluation_clips(..., mixed=True)")


def _teacher_logits(agent: EgoAgent, images: Tensor) -> Tensor:
    return agent.observer.head(agent.observer.encode_clip(images[:, 1:])).float()


def _mean_logits(agent: EgoAgent, batches: Sequence[ClipBatch], device: torch.device | str) -> Tensor:
    means = [_teacher_logits(agent, normalise_clip(batch.images.to(device))).mean((0, 1)) for batch in batches]
    weights = torch.tensor([float(len(batch.images)) for batch in batches], device=device)
    return (torch.stack(means) * weights[:, None]).sum(0) / weights.sum()


def _states(agent: EgoAgent, images: Tensor, batch: ClipBatch, kind: str) -> Iterator[Tensor]:
    """Hidden [B, h] of S'_{t+1} for every t, with a_t as ``kind`` says."""
    past = (batch.past_poses, batch.past_visible)
    if kind == "true":
        yield from agent.predictor.forward_clip(images[:, :-1], batch.poses, batch.visible, *past).state.unbind(1)
        return
    shift = max(1, len(images) // 2)  # neighbours in a batch are neighbours in a take; half a batch away is elsewhere
    for t in range(batch.poses.shape[1]):
        poses, visible = batch.poses[:, : t + 1].clone(), batch.visible[:, : t + 1].clone()
        if kind == "zero":
            poses[:, t], visible[:, t] = 0, False
        else:
            poses[:, t], visible[:, t] = batch.poses[:, t].roll(shift, 0), batch.visible[:, t].roll(shift, 0)
        until = [tensor[:, : t + 1] for tensor in past]
        # Step t sees nothing later, so the sequence may end there.
        yield agent.predictor.forward_clip(images[:, : t + 1], poses, visible, *until).state[:, t]


def figures(report: dict[str, float]) -> list[Figure]:
    """Row of a ``prediction_kl`` with all three actions."""
    others = {"shuffled action": report["shuffled"], "zeroed action": report["zero"], "constant prediction": report["constant"]}
    meaning = "KL of the predicted next state, at the same frames"
    return [Figure("Prediction with the true action", report["true"], "nats", others, higher_is_better=False, meaning=meaning)]
