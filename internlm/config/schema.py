"""The typed configuration: every key a run can have, its unit, its default and its limits.

Defaults are the published 300M values (paper appendix and upstream configs); files in ``configs/`` change what differs.
Unknown keys and wrong types are refused by pydantic; combinations that cannot work are refused by the validators below.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


def _ascending_shares(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{scale} is not (smallest, largest) share with 0 < smallest <= largest <= 1")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_ascending_shares)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


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
    sequence: Literal["causal", "block"] = Field(
        "causal", description="causal = published; block = patches of a frame see each other"
    )
    observer_attention: Literal["frame", "clip"] = Field("frame", description="frame: each frame its own sequence")
    use_images: bool = Field(True, description="False: pose-only, no image tokens, no stem, no DINO head")
    num_joints: Positive = 17
    poses_per_step: Positive = 5
    pose_target: Literal["absolute", "offset"] = Field(
        "absolute", description="offset = from the last observed pose, zero-initialised"
    )
    pose_context: bool = Field(
        False, description="the action query also carries the last observed poses in the chunk's coordinates"
    )
    head_hidden: Positive = 2048
    head_bottleneck: Positive = 256
    prototypes: Positive = 65_536
    attention: Literal["sdpa", "flex", "flash"] = Field(
        "sdpa", description="kernel in training: PyTorch's own, FlexAttention (CUDA), or flash-attn (CUDA, causal, bfloat16)"
    )

    @model_validator(mode="after")
    def _shapes(self):
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if (self.hidden_size // self.num_heads) % 2:
            raise ValueError(f"head size {self.hidden_size // self.num_heads} is odd; rotary positions need an even one")
        if self.patch_size < 2 or self.patch_size & (self.patch_size - 1):
            raise ValueError(f"patch_size {self.patch_size} is not a power of two of at least 2")
        stem_width_divisor = 2 ** (self.patch_size.bit_length() - 2)
        if self.hidden_size % stem_width_divisor:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by {stem_width_divisor}, the first stem width's divisor"
            )
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
    pred_temp: float | None = Field(
        None,
        gt=0,
        description="temperature of both sides of L_pred, whose targets are then the teacher's plain softmax: an exact "
        "prediction has no loss left; None = targets and temperatures as in L_rep (published)",
    )
    warmup_teacher_temp_share: Share = Field(0.03, description="share of all steps over which the teacher temperature warms up")
    targets: Literal["centering", "sinkhorn"] = "centering"
    center_momentum: Share = 0.9
    sinkhorn_iterations: Positive = 3
    row_chunk: Positive = Field(64, description="rows of the [N, prototypes] logits that exist at once")
    koleo_weight: float = Field(0.0, ge=0)


class CropConfig(Section):
    """Multi-crop views of one image (DINO/DoRA recipe)."""

    global_crops: Positive = 2
    local_crops: int = Field(6, ge=0)
    global_scale: Scale = (0.4, 1.0)
    local_scale: Scale = (0.05, 0.4)
    init_scale: Scale | None = Field(
        (0.2, 1.0), description="area share of the first crop that all views are taken from; None = whole image"
    )
    flip: Share = 0.5
    color_jitter: Share = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: Share = 0.2
    blur_global: tuple[Share, Share] = Field(
        (1.0, 0.1), description="blur probability of the first and of the other global crops"
    )
    blur_local: Share = 0.5
    solarize: Share = Field(0.2, description="probability for the second global crop")


class ClipConfig(Section):
    """How a take becomes clips of T steps: T+1 images and T pose chunks."""

    steps: Positive = 20
    frame_stride: Positive = Field(5, description="frame numbers between two steps")
    pose_stride: Positive | None = Field(
        None, description="frame numbers between two poses of a chunk; None = frame_stride / poses_per_step"
    )
    pose_coordinates: Literal["camera", "chunk"] = Field(
        "camera", description="camera: each pose in its own frame's camera; chunk: all in I_t's camera"
    )
    crop_scale: Scale = Field((1.0, 1.0), description="area share of the one crop that all frames of a clip share")
    color_jitter: Share = Field(
        0.0, description="probability of one photometric change shared by the predictor's frames of a clip"
    )


class DataConfig(Section):
    """What is read. Paths are take stores or folder trees of images, relative to the working directory."""

    images: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    split: str = "train"
    crops: CropConfig = CropConfig()
    clip: ClipConfig = ClipConfig()
    frame_stride: Positive = Field(1, description="use every n-th stored frame of a take as an image sample")
    max_broken_share: Share = 0.01
    workers: int = Field(2, ge=0)


class OptimConfig(Section):
    """AdamW, its schedules and the observer's momentum (spec §5.1, §2.7)."""

    lr: float = Field(5e-4, gt=0)
    final_lr: float = Field(5e-6, ge=0)
    warmup_share: Share = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(0.04, ge=0)
    weight_decay_end: float = Field(0.4, ge=0)
    decay_one_dimensional: bool = Field(False, description="also decay norms, biases and queries (upstream's single group)")
    grad_clip: float = Field(1.0, gt=0)
    momentum: Share = Field(0.996, description="observer EMA at step 0")
    momentum_end: Share = 1.0
    freeze_prototypes_steps: int | None = Field(0, ge=0, description="first steps in which they stay as drawn; None = all")


class TrainConfig(Section):
    """Length, batch and policy of a run. Batch sizes are samples per process and optimizer step."""

    steps: Positive = 751_036
    image_batch: int = Field(64, ge=0)
    clip_batch: int = Field(0, ge=0)
    accumulation: Positive = 4
    mixing: Literal["both", "alternate"] = Field("both", description="clip and image batch in each step, or by turns as upstream")
    init_from: str | None = Field(None, description="stage-1 checkpoint folder; its CLS becomes the state query")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto = bfloat16 autocast on CUDA, float32 on CPU")
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 = torch's choice")
    log_every: Positive = 10
    checkpoint_every: Positive = 7_436
    async_save: bool = Field(False, description="periodic saves wait for a copy to main memory only; a thread writes it")
    keep_last: Positive = 2
    keep_every: int = Field(0, ge=0, description="also keep each checkpoint whose step is a multiple; 0 = none")
    max_bad_steps: Positive = Field(10, description="consecutive bad steps that are skipped before on_bad holds")
    spike_factor: float | None = Field(
        None, gt=0, description="a loss or gradient norm above median + factor x spread of the last steps is bad; try 10"
    )
    on_bad: Literal["stop", "rewind"] = Field(
        "stop", description="rewind: go on from the last checkpoint with the data after the bad steps"
    )
    max_rewinds: Positive = Field(3, description="of a run, before it stops after all")


class MonitorConfig(Section):
    """What is watched while training."""

    tensorboard: bool = True
    wandb: str | None = Field(None, description="Weights & Biases project; needs wandb installed")
    progress: bool = True
    peak_tflops: float | None = Field(None, gt=0, description="of one device, for the MFU; None = the data sheet's where known")
    profile_steps: tuple[Positive, Positive] | None = Field(None, description="first and last step that are profiled")
    straggler_share: float = Field(0.5, gt=0, description="a process this much slower than the others' median is named")
    data_wait_share: Share = Field(0.25, description="waiting for data longer than this share of a step is named")
    health_every: Positive = 50
    collapse_patience: Positive = Field(5, description="consecutive bad health readings that make the collapse verdict")

    @model_validator(mode="after")
    def _profile(self):
        if self.profile_steps is not None and not 0 <= self.profile_steps[1] - self.profile_steps[0] < 50:
            raise ValueError(f"profile_steps {self.profile_steps} is not (first, last) of 1 to 50 steps; a step is MBs")
        return self


class ParallelConfig(Section):
    """The device mesh and how the model is divided over it; the three sizes multiply to the number of processes."""

    dp_replicate: Positive = Field(1, description="copies of the sharded model (HSDP with dp_shard above 1)")
    dp_shard: Positive = Field(1, description="processes that share weights, gradients and optimizer states")
    tp: Positive = Field(1, description="processes that share each layer, the prototypes included; they see the same samples")
    engine: Literal["torch", "deepspeed"] = Field("torch", description="who divides states and takes steps")
    zero: Literal[1, 2, 3] = Field(
        3,
        description="3: weights are freed after a layer's forward pass; 2: kept until its backward; 1: gradients are not "
        "divided either (DeepSpeed only)",
    )
    sequence_parallel: bool = Field(True, description="with tp: tokens are divided where layers are not")
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        "none", description="of the predictor's blocks; selective keeps the outputs of products and attention"
    )
    compile: bool = Field(False, description="torch.compile, block by block")
    timeout_minutes: float = Field(10, gt=0, description="a run that finishes no step and no save for so long ends with code 4")

    @model_validator(mode="after")
    def _engine(self):
        if self.engine == "torch":
            if self.zero == 1:
                raise ValueError(
                    "zero 1 is DeepSpeed's: set engine=deepspeed, or zero=2, which sends as much and also divides gradients"
                )
            return self
        if self.tp > 1:
            raise ValueError(f"engine deepspeed has no tensor parallelism and tp is {self.tp}; set tp=1 or engine=torch")
        if self.dp_replicate > 1:
            raise ValueError(
                f"engine deepspeed divides states over all processes and dp_replicate is {self.dp_replicate}; "
                "count them all in dp_shard, or set engine=torch for HSDP"
            )
        if self.zero == 3 and (self.compile or self.activation_checkpointing == "selective"):
            raise ValueError(
                "engine deepspeed with zero 3 gathers weights in the midst of a block, which neither compile nor selective "
                "activation_checkpointing follows: leave both, or set zero=2 or engine=torch"
            )
        return self


class Config(Section):
    """One run, complete. The resolved file in the run folder reproduces it."""

    job_name: str = "egoagent"
    run_dir: str | None = Field(None, description="None = runs/<job_name>")
    system: str = Field("egoagent", pattern=r"^[a-z][a-z0-9_]*$", description="what is trained: a folder of internlm/systems")
    stage: Literal["pretrain", "joint"] = "pretrain"
    seed: int = Field(1024, ge=0)
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    parallel: ParallelConfig = ParallelConfig()

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
        if clip.pose_stride is None and clip.frame_stride % model.poses_per_step:
            raise ValueError(
                f"data.clip.frame_stride {clip.frame_stride} is not a multiple of model.poses_per_step {model.poses_per_step}; "
                "set data.clip.pose_stride"
            )
        if clip.pose_stride is not None and (model.poses_per_step - 1) * clip.pose_stride >= clip.frame_stride:
            raise ValueError(
                f"{model.poses_per_step} poses every {clip.pose_stride} frames reach the next step at {clip.frame_stride} "
                "frames; the next image would be in the past of the action that should predict it"
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
