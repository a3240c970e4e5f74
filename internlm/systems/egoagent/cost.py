"""Size and cost of a configured model, read off the model itself on the meta device: nothing is computed or allocated.

FLOPs are what ``torch.utils.flop_counter`` counts: two per multiply-add of convolutions and matrix products, causal
attention as the full square, norms and activation functions not at all.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..base import Cost
from .config import EgoAgentConfig, ModelConfig
from .inputs import clip_inputs, example
from .network import EgoAgent
from .sequence import clip_layout, frame_layout
from .streams import CLIPS, IMAGES


def build_on_meta(config: ModelConfig) -> EgoAgent:
    """The model with shapes and no storage."""
    with torch.device("meta"):
        return EgoAgent(config)


def count(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_by_part(agent: EgoAgent) -> dict[str, int]:
    """Parameters of the predictor: ``backbone`` = stem + blocks + final norm; ``total`` is everything that is trained.

    ``observer`` is the moving-average copy of the image parts; it is stored, not trained.
    """
    network = agent.predictor
    own = {"stem": count(network.stem), "trunk": count(network.backbone)}
    own |= {"backbone": sum(own.values()), "head": count(network.head)}
    total = count(network)
    rest = {"action_and_queries": total - own["backbone"] - own["head"], "total": total, "observer": count(agent.observer)}
    return own | rest


def tokens(config: EgoAgentConfig) -> dict[str, int]:
    """Sequence lengths: one image, one local crop, the predictor's clip and the observer's frames of that clip."""
    model, steps = config.model, config.data.clip.steps
    patches = (model.image_size // model.patch_size) ** 2
    local = (model.local_image_size // model.patch_size) ** 2
    frame = len(frame_layout(patches, model.sequence))
    return {
        "image": frame,
        "local_crop": len(frame_layout(local, model.sequence)),
        "clip": len(clip_layout(patches, steps, model.sequence)),
        "clip_observer": frame * steps,
        "clip_steps": steps,
    }


def flops(config: EgoAgentConfig, agent: EgoAgent) -> dict[str, int]:
    """FLOPs of one sample.

    ``image``: forward of one image through the predictor and its head. ``clip``: forward of one clip through the predictor
    and of its T next frames through the observer, heads included. ``train_image``, ``train_clip``: one training sample, a
    backward pass counted as twice its forward, the observer forward only.
    """
    model, crops = config.model, config.data.crops
    image = _image(agent, model.image_size)
    local = _image(agent, model.local_image_size)
    frames, next_frames, actions = clip_inputs(example(config, CLIPS, 1, torch.device("meta")), jitter=False)
    predictor = _counted(lambda: agent.predictor.head(agent.predictor(frames, *actions).state))
    observer = _counted(lambda: agent.observer.head(agent.observer.encode_clip(next_frames)))
    views = crops.global_crops * image + crops.local_crops * local
    return {
        "image": image,
        "clip": predictor + observer,
        "train_image": 3 * views + crops.global_crops * image,
        "train_clip": 3 * predictor + observer,
    }


def cost(config: EgoAgentConfig) -> Cost:
    """A clip counts as its T + 1 frames; tokens are those that the predictor reads."""
    lengths, crops = tokens(config), config.data.crops

    def training() -> dict[str, int]:
        found = flops(config, build_on_meta(config.model).eval())
        return {IMAGES: found["train_image"], CLIPS: found["train_clip"]}

    def figures() -> dict[str, dict[str, int]]:
        agent = build_on_meta(config.model)
        return {"parameters": parameters_by_part(agent), "tokens": lengths, "flops": flops(config, agent)}

    views = crops.global_crops * lengths["image"] + crops.local_crops * lengths["local_crop"]
    return Cost({IMAGES: 1, CLIPS: config.data.clip.steps + 1}, {IMAGES: views, CLIPS: lengths["clip"]}, training, figures)


def _image(agent: EgoAgent, size: int) -> int:
    return _counted(lambda: agent.predictor.head(agent.predictor(torch.empty(1, 3, size, size, device="meta"))))


def _counted(forward) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops()
