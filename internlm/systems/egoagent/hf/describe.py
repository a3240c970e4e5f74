"""What is written into a branch's Hugging Face folder beside its weights, and inputs with outputs to check it by."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from internlm.data.view import eval_transform, normalise

from ...base import Hub
from ..config import ModelConfig
from ..network import EgoNetwork


def describe(network: EgoNetwork, branch: str) -> Hub:
    """The Hugging Face side of a branch."""
    auto = {"AutoConfig": "configuration_egoagent.EgoAgentConfig", "AutoModel": "modeling_egoagent.EgoAgentModel"}
    processor = "image_processing_egoagent.EgoAgentImageProcessor"
    return Hub(
        config={
            "architectures": ["EgoAgentModel"],
            "auto_map": auto,
            "model_type": "egoagent",
            "dtype": "float32",
            "torch_dtype": "float32",  # the key's name before transformers 5
            "network": branch,
            "actions": hasattr(network, "action_query"),
            **network.config.model_dump(mode="json"),
        },
        entries=tuple(f"{__package__}.{name.partition('.')[0]}" for name in (*auto.values(), processor)),
        # The network reads its shape from attributes; outside the package the Hugging Face configuration has the same ones.
        replaced={ModelConfig.__module__: (ModelConfig.__name__, "configuration_egoagent", "EgoAgentConfig")},
        processor=processor,
        check=Path(__file__).with_name("check_folder.py"),
        probe=partial(probe_of, network),
        outputs={"pooler_output": "state", "last_hidden_state": "patches"},
    )


@torch.no_grad()
def probe_of(network: EgoNetwork) -> dict[str, Tensor]:
    """Inputs and the network's outputs for ``check_folder.py``: three images uint8 [H, W, 3], and a clip where it reads clips."""
    size = network.config.image_size
    rng = np.random.default_rng(0)
    shapes = ((size, size), (size * 4 // 3 + 1, size * 2 + 3), (size * 2 + 3, size // 2 + 2))
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    pixels = normalise(torch.from_numpy(np.stack([eval_transform(image, size) for image in images])))
    patches, state = network.tokens(pixels)
    probe = {f"image.{index:04d}": torch.from_numpy(image) for index, image in enumerate(images)}
    probe |= {"pixel_values": pixels, "pooler_output": state, "bottleneck": network.head.bottleneck(state)}
    probe["last_hidden_state"] = torch.cat((patches, state[:, None]), 1)
    if hasattr(network, "action_query"):
        clip = _random_clip(rng, network.config)
        read = network.forward_clip(**clip)
        probe |= {f"clip.{name}": tensor for name, tensor in clip.items()}
        probe |= {f"predict.{name}": tensor for name, tensor in vars(read).items()}
    return {name: tensor.contiguous() for name, tensor in probe.items()}


def _random_clip(rng: np.random.Generator, config: ModelConfig, steps: int = 2) -> dict[str, Tensor]:
    shape = (1, steps, config.poses_per_step, config.num_joints)
    visible, past_visible = (torch.from_numpy(rng.random(shape) < 0.8) for _ in range(2))
    poses, past_poses = (torch.from_numpy(rng.normal(size=(*shape, 3)).astype(np.float32)) for _ in range(2))
    images = torch.from_numpy(rng.normal(size=(1, steps, 3, config.image_size, config.image_size)).astype(np.float32))
    return {"images": images, "poses": poses, "visible": visible, "past_poses": past_poses, "past_visible": past_visible}
