"""The weighted sum L = rep·L_rep + pred·L_pred + act·L_act + visibility·BCE, and what is logged beside it (spec §4)."""

import torch
from torch import Tensor, nn

from internlm.core.collectives import ALONE, Group
from internlm.objective.motion import pose_l1, visibility_bce
from internlm.objective.next_state import next_state_cross_entropy
from internlm.objective.self_distillation import Targets, entropy, koleo, multicrop_cross_entropy

from ..base import Terms
from .config import LossConfig


class JointLoss(nn.Module):
    """Both losses' targets live here, so that their centres are part of every checkpoint.

    Losses are this process's share: their mean over the data group is the loss of the whole batch. They keep ``teacher``
    ``[N, K]``, target probabilities (this process's columns), and ``features`` ``[N, d]``, the observer's unit vectors.
    """

    def __init__(self, config: LossConfig, prototypes: int):
        super().__init__()
        self.config = config
        self.rep_targets = Targets(prototypes, config.targets, config.center_momentum, config.sinkhorn_iterations)
        kind = config.targets if config.pred_temp is None else "softmax"
        self.pred_targets = Targets(prototypes, kind, config.center_momentum, config.sinkhorn_iterations)

        self.data, self.vocab = ALONE, ALONE

    def spread_over(self, data: Group, vocab: Group) -> None:
        """Work beside the processes of ``data`` on other samples, with the prototypes divided over ``vocab``."""
        self.data, self.vocab = data, vocab
        for targets in (self.rep_targets, self.pred_targets):
            targets.data, targets.vocab = data, vocab
            targets.center = targets.center.chunk(vocab.size)[vocab.rank].clone()

    def pred_temperatures(self, teacher_temp: float) -> tuple[float, float]:
        """Temperatures of L_pred's targets and of its prediction; ``teacher_temp`` is the schedule's value for L_rep."""
        own = self.config.pred_temp
        return (own, own) if own is not None else (teacher_temp, self.config.student_temp)

    def image_loss(self, predictor: nn.Module, observer: nn.Module, crops: list[Tensor], teacher_temp: float) -> Terms:
        """L_rep on multi-crop views: ``crops`` are ``[V, B, 3, S, S]`` by size, the global views first."""
        config, (global_crops, *local_crops) = self.config, crops
        views = torch.cat([predictor(c.flatten(0, 1)).unflatten(0, c.shape[:2]) for c in (global_crops, *local_crops)])
        with torch.no_grad():
            features = observer.head.bottleneck(observer(global_crops.flatten(0, 1))).unflatten(0, global_crops.shape[:2])
            logits = observer.head.similarity(features)
            teacher = self.rep_targets(logits, teacher_temp)
        ce = multicrop_cross_entropy(
            predictor.head, views, teacher, temperature=config.student_temp, chunk=config.row_chunk, vocab=self.vocab
        )
        total = config.rep_weight * ce
        teacher_entropy = entropy(teacher, self.vocab).mean()
        logged = {"rep": ce.detach(), "rep_kl": ce.detach() - teacher_entropy, "rep_teacher_entropy": teacher_entropy}
        if config.koleo_weight:
            groups = torch.arange(views.shape[1], device=views.device) + self.data.rank * views.shape[1]
            spread = koleo(predictor.head.bottleneck(views[0]), groups, data=self.data)
            total = total + config.koleo_weight * spread
            logged["koleo"] = spread.detach()
        return Terms(total, logged, {"teacher": teacher.flatten(0, 1), "features": features.flatten(0, 1)})

    def clip_loss(
        self,
        predictor: nn.Module,
        observer: nn.Module,
        images: Tensor,
        next_images: Tensor,
        actions: tuple[Tensor, ...],
        teacher_temp: float,
        visible_count: Tensor | None = None,
    ) -> Terms:
        """L_pred and L_act on clips.

        ``images`` ``[B, T, 3, S, S]`` are I_1..I_T as the predictor sees them, ``next_images`` I_2..I_{T+1} as the observer does;
        ``actions`` = (poses, visible, past_poses, past_visible) as in ``EgoNetwork.forward_clip``; ``visible_count`` as the
        ``count`` of ``pose_l1``, when the clips are a piece of a batch.
        """
        config, (poses, visible, _, _) = self.config, actions
        readout = predictor(images, *actions)
        with torch.no_grad():
            features = observer.head.bottleneck(observer.encode_clip(next_images))
            target_temp, temperature = self.pred_temperatures(teacher_temp)
            teacher = self.pred_targets(observer.head.similarity(features), target_temp)
        ce = next_state_cross_entropy(
            predictor.head, readout.state, teacher, temperature=temperature, chunk=config.row_chunk, vocab=self.vocab
        ).mean()
        act = pose_l1(readout.action, poses, visible, visible_count, self.data)
        seen = visibility_bce(readout.visibility, visible)
        total = config.pred_weight * ce + config.act_weight * act + config.visibility_weight * seen
        teacher_entropy = entropy(teacher, self.vocab).mean()
        logged = {
            "pred": ce.detach(),
            "pred_kl": ce.detach() - teacher_entropy,
            "pred_teacher_entropy": teacher_entropy,
            "act": act.detach(),
            "visibility": seen.detach(),
        }
        return Terms(total, logged, {"teacher": teacher.flatten(0, 1), "features": features.flatten(0, 1)})
