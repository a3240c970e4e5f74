"""What the model card of an exported EgoAgent says in its own words."""

from pathlib import Path

from ..base import Words
from .config import EgoAgentConfig
from .network import EgoNetwork

_ROLE = {
    "observer": "the moving average of the trained weights, which reads single images",
    "predictor": "the trained weights; where it was trained on clips it also predicts the next body motion and the next state",
}
_STAGE = {"pretrain": "1: single images", "joint": "2: images, clips and poses"}
_ATTENTION = {"causal": "causal over patches and state query", "block": "patches see each other"}


def words(config: EgoAgentConfig, network: EgoNetwork, branch: str) -> Words:
    """Of one branch."""
    model, actions = config.model, hasattr(network, "action_query")
    size, patch = model.image_size, model.patch_size
    return Words(
        tags=("egoagent", "egocentric", "self-supervised"),
        about="EgoAgent is one causal transformer trained from scratch on first-person frames and body poses. This folder holds "
        f"its {branch}: {_ROLE[branch]}.",
        use=_text("card_use.txt"),
        further=_predict(config) if actions else "",
        network=[
            ("parameters", f"{sum(p.numel() for p in network.parameters()):,}"),
            ("hidden / layers / heads", f"{model.hidden_size} / {model.num_layers} / {model.num_heads}"),
            ("image, patch", f"{size}, {patch} pixels: {(size // patch) ** 2} patches"),
            ("attention", _ATTENTION[model.sequence]),
            ("bottleneck / prototypes", f"{model.head_bottleneck} / {model.prototypes}"),
            ("reads and predicts motion", "yes" if actions else "no"),
        ],
        stage=_STAGE[config.stage],
        published_images=7_614_851,
    )


def _predict(config: EgoAgentConfig) -> str:
    """How the action parts are called, in the shapes of this very network."""
    model, clip = config.model, config.data.clip
    size, poses, seen = model.image_size, f"1, T, {model.poses_per_step}, {model.num_joints}", "dtype=torch.bool"
    rows = [
        (f"images=torch.zeros(1, T, 3, {size}, {size}),", "[B, T, 3, S, S]: pixel_values, one frame a step"),
        (f"poses=torch.zeros({poses}, 3),", "[B, T, P, J, 3], metres: the chunk that begins at each frame"),
        (f"visible=torch.ones({poses}, {seen}),", "[B, T, P, J]: joints that were seen; other numbers do not count"),
        (f"past_poses=torch.zeros({poses}, 3),", "[B, T, P, J, 3], metres: the P poses before each frame"),
        (f"past_visible=torch.ones({poses}, {seen}),", "[B, T, P, J]"),
    ]
    width = max(len(code) for code, _ in rows)
    shown = "\n".join(f"    {code:<{width}}  # {meaning}" for code, meaning in rows)
    sizes = {"poses": model.poses_per_step, "joints": model.num_joints, "hidden": model.hidden_size}
    time = {"step": clip.frame_stride, "stride": config.pose_stride}
    return _text("card_predict.txt").format(rows=shown, place=_PLACE[clip.pose_coordinates], **sizes, **time)


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").rstrip()


_PLACE = {
    "camera": "each pose in the camera of its own frame",
    "chunk": "in the camera of the frame that it begins at, as are the poses before it",
}
