"""EgoAgent's own sections of a config: the model's shape and the losses' weights, and what must fit together."""

from typing import Any, Literal

from pydantic import Field, model_validator

from internlm.config.schema import Config, Positive, Section, Share


class ModelConfig(Section):
    """Shape of the interleaved transformer, its tokenizers and its read-outs."""

    hidden_size: Positive = 1024
    num_layers: Positive = 22
    num_heads: Positive = 8
    mlp_ratio: float = Field(8 / 3, gt=0, description="FFN inner width = int(hidden·ratio) rounded up to mlp_multiple_of")
    mlp_multiple_of: Positive = 256
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0
    init_std: float = Field(0.006, gt=0, description="std of QKV and gate weights; the other matrices scale with it")
    image_size: Positive = Field(224, description="pixels of a frame's side")
    local_image_size: Positive = Field(112, description="pixels of a local crop's side")
    patch_size: Positive = Field(16, description="power of two: one stride-2 convolution per factor")
    stem_norm: Literal["batch", "layer"] = "batch"
    sequence: Literal["causal", "block"] = Field("causal", description="causal = published; block = patches see each other")
    observer_attention: Literal["frame", "clip"] = Field("frame", description="frame: each frame its own sequence")
    num_joints: Positive = 17
    poses_per_step: Positive = 5
    pose_target: Literal["absolute", "offset"] = Field("absolute", description="offset = from the last observed pose, first zero")
    pose_context: bool = Field(False, description="the action query carries the last observed poses too, as the chunk's are")
    head_hidden: Positive = 2048
    head_bottleneck: Positive = 256
    prototypes: Positive = 65_536
    # PyTorch's own kernel in training, FlexAttention (CUDA), or flash-attn (CUDA, causal, bfloat16).
    attention: Literal["sdpa", "flex", "flash"] = Field("sdpa", description="kernel in training; flex and flash need CUDA")

    @model_validator(mode="before")
    @classmethod
    def _always_images(cls, values: Any):
        """Configs and checkpoints of before say ``use_images``, which can only be True."""
        if isinstance(values, dict) and "use_images" in values:
            if values["use_images"] is not True:
                given = values["use_images"]
                raise ValueError(f"use_images {given!r}: without images it is system 'forecaster' (configs/motion/cmu.py)")
            return {name: value for name, value in values.items() if name != "use_images"}
        return values

    @model_validator(mode="after")
    def _shapes(self):
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if (self.hidden_size // self.num_heads) % 2:
            raise ValueError(f"head size {self.hidden_size // self.num_heads} is odd; rotary positions need an even one")
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size {self.patch_size} is not a power of two of at least 2")
        divisor = 2 ** (self.patch_size.bit_length() - 2)
        if self.hidden_size % divisor:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {divisor}, the first stem width's divisor")
        if self.attention == "flash" and self.sequence != "causal":
            raise ValueError(f"attention 'flash' is strictly causal, sequence is {self.sequence!r}; set attention=flex or sdpa")
        for name in ("image_size", "local_image_size"):
            if getattr(self, name) % self.patch_size:
                raise ValueError(f"{name} {getattr(self, name)} is not a multiple of patch_size {self.patch_size}")
        return self


class LossConfig(Section):
    """Weights and temperatures of L = rep·L_rep + pred·L_pred + act·L_act + visibility·BCE."""

    rep_weight: float = Field(2.0, ge=0)
    pred_weight: float = Field(1.0, ge=0)
    act_weight: float = Field(3.0, ge=0)
    visibility_weight: float = Field(1.0, ge=0)
    student_temp: float = Field(0.1, gt=0)
    teacher_temp: float = Field(0.04, gt=0)
    warmup_teacher_temp: float = Field(0.04, gt=0)
    # Of both sides of L_pred, whose targets are then the teacher's plain softmax: an exact prediction has no loss left.
    pred_temp: float | None = Field(None, gt=0, description="temperature of L_pred; None = as in L_rep (published)")
    warmup_teacher_temp_share: Share = Field(0.03, description="share of all steps over which the teacher temperature warms up")
    targets: Literal["centering", "sinkhorn"] = "centering"
    center_momentum: Share = 0.9
    sinkhorn_iterations: Positive = 3
    row_chunk: Positive = Field(64, description="rows of the [N, prototypes] logits that exist at once")
    koleo_weight: float = Field(0.0, ge=0)


class EgoAgentConfig(Config):
    """One EgoAgent run, complete. The resolved file in the run folder reproduces it."""

    stage: Literal["pretrain", "joint"] = "pretrain"
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _combinations(self):
        clip, model, train = self.data.clip, self.model, self.train
        if self.stage == "pretrain" and train.clip_batch:
            raise ValueError(f"train.clip_batch {train.clip_batch} needs stage 'joint'; stage 'pretrain' has no actions")
        if self.stage == "joint" and not train.clip_batch:
            raise ValueError("stage 'joint' needs train.clip_batch of at least 1")
        if not (train.image_batch or train.clip_batch):
            raise ValueError("train.image_batch and train.clip_batch are both 0: there is nothing to train on")
        if train.image_batch and self.data.crops.global_crops + self.data.crops.local_crops < 2:
            raise ValueError("one global crop and no local crops leave nothing to compare; raise data.crops.local_crops")
        step, poses = clip.frame_stride, model.poses_per_step
        if clip.pose_stride is None and step % poses:
            multiple = f"is not a multiple of model.poses_per_step {poses}"
            raise ValueError(f"data.clip.frame_stride {step} {multiple}; set data.clip.pose_stride")
        if clip.pose_stride is not None and (poses - 1) * clip.pose_stride >= step:
            raise ValueError(
                f"{poses} poses every {clip.pose_stride} frames reach the next step at {step} frames; the next image would be in "
                "the past of the action that should predict it"
            )
        for name in ("image_batch", "clip_batch"):
            size = getattr(train, name)
            if size % train.accumulation:
                raise ValueError(f"train.{name} {size} is not a multiple of train.accumulation {train.accumulation}")
        if model.attention == "flex" and self.parallel.activation_checkpointing == "selective":
            raise ValueError(
                "model.attention 'flex' would be recomputed without its kernel under parallel.activation_checkpointing "
                "'selective'; set it to full or none"
            )
        for name in ("num_heads", "hidden_size", "head_hidden", "prototypes", "mlp_multiple_of"):
            if getattr(model, name) % self.parallel.tp:
                raise ValueError(f"model.{name} {getattr(model, name)} is not divisible by parallel.tp {self.parallel.tp}")
        return self

    @property
    def pose_stride(self) -> int:
        """Frame numbers between two poses of a chunk."""
        return self.data.clip.pose_stride or self.data.clip.frame_stride // self.model.poses_per_step


RunConfig = EgoAgentConfig
