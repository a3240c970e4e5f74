"""The typed configuration: every key that all runs have, its unit, its default and its limits.

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
        0.0,
        description="probability of one photometric change shared by the predictor's frames of a clip, in the strengths of "
        "data.crops (brightness, contrast, saturation, hue)",
    )


class DataConfig(Section):
    """What is read. Paths are take stores or folder trees of images, relative to the working directory."""

    images: tuple[str, ...] = ()
    clips: tuple[str, ...] = ()
    split: str = "train"
    validate_split: str = Field("val", description="of which train.validate_every measures the losses")
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
    validate_every: int = Field(0, ge=0, description="steps between two looks at the held-out losses; 0 = never")
    validate_batches: Positive = Field(2, description="of each stream and process, always the same, kept in main memory")
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
                raise ValueError("zero 1 is DeepSpeed's: engine=deepspeed, or zero=2, which sends as much and divides gradients")
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
    """What every run has. A system adds sections of its own in a subclass (``resolve.config_class``)."""

    job_name: str = "egoagent"
    run_dir: str | None = Field(None, description="None = runs/<job_name>")
    system: str = Field("egoagent", pattern=r"^[a-z][a-z0-9_.]*$", description="what is trained: a folder of internlm/systems")
    seed: int = Field(1024, ge=0)
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    monitor: MonitorConfig = MonitorConfig()
    parallel: ParallelConfig = ParallelConfig()

    @model_validator(mode="after")
    def _held_out(self):
        if self.train.validate_every and self.data.validate_split == self.data.split:
            raise ValueError(f"data.validate_split {self.data.split!r} is data.split: what is trained on is not held out")
        return self
