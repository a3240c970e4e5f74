"""The config of a forecaster: which method, on which windows of which recordings. A recipe is a file in configs/motion."""

from typing import Literal

from pydantic import Field, model_validator

from internlm.config.schema import Config, Positive, Section, Share


class ForecasterConfig(Section):
    """What is forecast from what. The recordings are ``data.clips``: motion files or take stores; none = the CMU benchmark."""

    method: Literal["zero_velocity", "constant_velocity", "ridge", "simlpe", "diffusion_policy", "egoagent"] = "simlpe"
    actions: Literal["standard", "all"] = Field("standard", description="of the CMU benchmark: all = with the extra walks")
    every: Positive = Field(1, description="keep each n-th frame of a recording, in n tracks")
    all_joints: bool = Field(False, description="COCO joints that are visible nowhere too")
    frame: Literal["root", "world"] = Field("root", description="poses relative to their root, or in the world")
    takes: Literal["all", "fitted"] = Field("all", description="fitted = without those that are held out to choose on")
    past: Positive = Field(30, description="observed poses")
    future: Positive = Field(30, description="predicted poses")
    scale: Share = Field(0.1, description="body size is changed by up to this share")
    speed_weight: float = Field(5.0, ge=0, description="of the steps between poses in the loss, which are millimetres each")
    average: Share = Field(0.998, description="decay of the moving average of the weights, which is what forecasts")


class PoseModelConfig(Section):
    """The shape of EgoAgent without images, with the keys of its own config; the other methods read ``num_joints`` alone."""

    hidden_size: Positive = 64
    num_layers: Positive = 3
    num_heads: Positive = 4
    mlp_ratio: float = Field(8 / 3, gt=0)
    mlp_multiple_of: Positive = 64
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0
    init_std: float = Field(0.05, gt=0)
    sequence: Literal["causal", "block"] = "causal"
    use_images: Literal[False] = False
    num_joints: Positive = Field(16, description="of the recordings: 16 in the CMU benchmark")
    poses_per_step: Positive = 10
    pose_target: Literal["absolute", "offset"] = "offset"
    pose_context: bool = True

    @model_validator(mode="after")
    def _shapes(self):
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads} into even heads")
        return self


class ForecasterRunConfig(Config):
    """A run of system ``forecaster``; ``train.clip_batch`` counts windows."""

    system: Literal["forecaster"] = "forecaster"
    forecaster: ForecasterConfig = ForecasterConfig()
    model: PoseModelConfig = PoseModelConfig()

    @model_validator(mode="after")
    def _combinations(self):
        own, train, model = self.forecaster, self.train, self.model
        if not train.clip_batch or train.clip_batch % train.accumulation:
            raise ValueError(f"train.clip_batch {train.clip_batch} is not a multiple of train.accumulation {train.accumulation}")
        if train.image_batch:
            raise ValueError(f"train.image_batch is {train.image_batch}, and a forecaster reads no images; set it to 0")
        if own.method == "egoagent":
            for name in ("past", "future"):
                if (poses := getattr(own, name)) % (chunk := model.poses_per_step):
                    raise ValueError(f"forecaster.{name} {poses} is not whole chunks of model.poses_per_step {chunk}")
            for name in ("num_heads", "hidden_size", "mlp_multiple_of"):
                if getattr(model, name) % self.parallel.tp:
                    raise ValueError(f"model.{name} {getattr(model, name)} is not divisible by parallel.tp {self.parallel.tp}")
        elif self.parallel.engine == "deepspeed" and self.parallel.zero == 3:
            raise ValueError(f"deepspeed with zero 3 cannot gather forecaster.method {own.method!r}; set parallel.zero=2")
        return self


RunConfig = ForecasterRunConfig
