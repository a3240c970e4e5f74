"""What the cache spares, each pair in one run: python benchmarks/rollout.py [--config CONFIG --clips 16 --candidates 64]

Motion rolled out over half a clip with its images, a live step at the end of a clip, and plans for several candidates, once by
reading everything anew for every answer and once from a cache; then the pose-only forecaster. Fresh weights: only time counts.
Printed is the processor time of each (the fastest of several), their ratio, and how far the answers are apart.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internlm.config.load import load_config
from internlm.config.schema import Config
from internlm.data.batch import ClipBatch
from internlm.systems.egoagent.clips import normalise_clip, roll_out
from internlm.systems.egoagent.sequence import clip_layout
from internlm.systems.forecaster import pose_agent
from internlm.systems.resolve import build_system
from internlm.trunk.cache import KVCache

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIGS / "joint_train/demo.py", help="of an agent with images")
    parser.add_argument("--clips", type=int, default=16, help="in a batch")
    parser.add_argument("--candidates", type=int, default=64, help="of a plan")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    agent, poses_only = load_config(args.config), load_config(CONFIGS / "motion/cmu.py")
    kinds = ("causal", "block")
    print(json.dumps({kind: {**with_images(agent, kind, args), **forecast(poses_only, kind, args)} for kind in kinds}, indent=1))


def with_images(config: Config, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    steps, network = config.data.clip.steps, fresh(config, kind, lambda own: build_system(own).branch("predictor"))
    clip, images = random_clip(config, args.clips)
    observed = steps // 2
    rolled = compared(
        lambda: anew(network, clip, images, observed),
        lambda: roll_out(network, clip, observed, steps, None).double(),
        args.repeats,
    )
    return {f"roll-out of {steps - observed} of {steps} steps": rolled, **live(network, clip, images, args)}


def forecast(config: Config, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    network = fresh(config, kind, pose_agent.build)
    known = torch.randn(256, 3, network.config.poses_per_step, network.config.num_joints, 3)
    rolled = compared(
        lambda: pose_agent._through_whole_sequences(network, known, 3),
        lambda: pose_agent._through_a_cache(network, known, 3),
        args.repeats,
    )
    return {"pose-only forecast, 3 chunks after 3": rolled}


def fresh(config: Config, kind: str, network: Callable[[Config], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = config.model.model_copy(update={"sequence": kind})
    made = network(config.model_copy(update={"model": model})).eval().requires_grad_(False)
    made.pose_head.layers[-1].weight.normal_(std=0.02)
    return made


def random_clip(config: Config, clips: int) -> tuple[ClipBatch, Tensor]:
    model, steps = config.model, config.data.clip.steps
    shape = (clips, steps, model.poses_per_step, model.num_joints)
    seen, nothing = torch.ones(shape, dtype=torch.bool), torch.zeros(clips, steps)
    images = torch.randint(256, (clips, steps, 3, model.image_size, model.image_size), dtype=torch.uint8)
    poses, past = torch.randn(*shape, 3), torch.randn(*shape, 3)
    return ClipBatch(images, nothing, poses, seen, past, seen, nothing, nothing, nothing), normalise_clip(images)


def stem(network: nn.Module, images: Tensor) -> Tensor:
    return network.stem(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def anew(network: nn.Module, clip: ClipBatch, images: Tensor, observed: int) -> Tensor:
    """The roll-out by a pass over everything for each chunk."""
    poses, past = clip.poses.clone(), clip.past_poses.clone()
    for step in range(observed, poses.shape[1]):
        upto = slice(0, step + 1)
        seen = clip.visible[:, upto]
        poses[:, step] = network.forward_clip(images[:, upto], poses[:, upto], seen, past[:, upto], seen).action[:, -1]
        if step + 1 < poses.shape[1]:
            past[:, step + 1] = poses[:, step]
    return poses[:, observed:].double()


def live(network: nn.Module, clip: ClipBatch, images: Tensor, args: argparse.Namespace) -> dict[str, Any]:
    """One sequence: its last frame arrives; and candidate actions for half of the steps, of which only the first has an image."""
    steps, half = clip.poses.shape[1], clip.poses.shape[1] // 2
    given = [x[:1] for x in (clip.poses, clip.visible, clip.past_poses, clip.past_visible)]
    poses, visible, past, past_visible = given
    patches = stem(network, images[:1])
    layout, cache = clip_layout(patches.shape[2], steps, network.config.sequence), KVCache()
    until = slice(0, steps - 1)
    before = {"past": (past[:, until], visible[:, until]), "actions": (poses[:, until], visible[:, until])}
    network.append(cache, layout, patches=patches[:, until], **before)
    mark = cache.mark()

    def arrives() -> Tensor:
        cache.rollback(mark)
        last = stem(network, images[:1, -1:])
        return network.append(cache, layout, patches=last, past=(past[:, -1:], visible[:, -1:])).action

    tail = clip_layout(patches.shape[2], steps, network.config.sequence, frames=half)
    prefix, known = KVCache(), slice(0, half)
    network.append(
        prefix,
        tail,
        patches=patches[:, known],
        past=(past[:, known], visible[:, known]),
        actions=(poses[:, : half - 1], visible[:, : half - 1]),
    )
    n, generator = args.candidates, torch.Generator().manual_seed(1)
    plans = torch.randn(n, steps - half + 1, *poses.shape[2:], generator=generator)
    ones = torch.ones(plans.shape[:-1], dtype=torch.bool)

    def imagined() -> Tensor:
        branches = prefix.branch(n)
        return network.append(branches, tail, past=(plans[:, :-1], ones[:, 1:]), actions=(plans, ones)).state

    def imagined_anew() -> Tensor:
        several = [x.expand(n, *x.shape[1:]).clone() for x in given]
        several[0][:, half - 1 :], several[2][:, half:] = plans, plans[:, :-1]
        return network.forward_clip(images[:1, :half].expand(n, -1, -1, -1, -1), *several).state[:, half - 1 :]

    return {
        "live: the last frame arrives": compared(
            lambda: network.forward_clip(images[:1], *given).action[:, -1:], arrives, args.repeats
        ),
        f"plan: {n} candidates of {steps - half + 1} steps": compared(imagined_anew, imagined, args.repeats),
    }


@torch.no_grad()
def compared(before: Callable[[], Tensor], after: Callable[[], Tensor], repeats: int) -> dict[str, Any]:
    """Alternating, so that both see the same machine."""
    gap, seconds = float((before() - after()).abs().max()), ([], [])
    for _ in range(repeats):
        for spent, call in zip(seconds, (before, after), strict=True):
            start = time.process_time()
            call()
            spent.append(time.process_time() - start)
    anew_s, cached_s = map(min, seconds)
    return {
        "anew ms": round(1000 * anew_s, 1),
        "cached ms": round(1000 * cached_s, 1),
        "ratio": round(anew_s / cached_s, 2),
        "largest difference": gap,
    }


if __name__ == "__main__":
    with torch.no_grad():
        main()
