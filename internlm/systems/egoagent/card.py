"""What the model card of an exported EgoAgent says in its own words."""

from ..base import Words
from .config import EgoAgentConfig
from .network import EgoNetwork

_ROLE = {
    "observer": "the moving average of the trained weights, which reads single images",
    "predictor": "the trained weights; where it was trained on clips it also predicts the next body motion and the next state",
}
_STAGE = {"pretrain": "1: single images", "joint": "2: images, clips and poses"}
_ATTENTION = {"causal": "causal over patches and state query", "block": "patches see each other"}
_USE = """```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModel  # 5 or newer

processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
features = model(**processor(Image.open("frame.jpg")))
features.pooler_output       # [N, h]: the state query, the feature of the kNN protocol
features.bottleneck          # [N, b]: unit vectors, the feature of the retrieval protocol
features.last_hidden_state   # [N, patches + 1, h]
```"""


def words(config: EgoAgentConfig, network: EgoNetwork, branch: str) -> Words:
    """Of one branch."""
    model, actions = config.model, hasattr(network, "action_query")
    size, patch = model.image_size, model.patch_size
    return Words(
        tags=("egoagent", "egocentric", "self-supervised"),
        about="EgoAgent is one causal transformer trained from scratch on first-person frames and body poses. This folder holds "
        f"its {branch}: {_ROLE[branch]}.",
        use=_USE,
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
    return (
        f"The next motion and the next state over a clip of T steps, {clip.frame_stride} frame numbers apart. A chunk is "
        f"P = {model.poses_per_step} poses of J = {model.num_joints} joints, {config.pose_stride} frame numbers "
        f"apart, {_PLACE[clip.pose_coordinates]}.\n\n"
    ) + _CALL.format(rows="\n".join(f"    {code:<{width}}  # {meaning}" for code, meaning in rows), hidden=model.hidden_size)


_PLACE = {
    "camera": "each pose in the camera of its own frame",
    "chunk": "in the camera of the frame that it begins at, as are the poses before it",
}
_CALL = """```python
import torch

T = 2
clip = dict(
{rows}
)
read = model.predict(**clip)
read.action       # [B, T, P, J, 3], metres: the chunk predicted at each frame, before poses[:, t] is seen
read.visibility   # [B, T, P, J]: logits of which joints will be seen
read.state        # [B, T, {hidden}]: the state predicted for the next frame
```"""
