"""EgoAgent's token order: of single frames, and of clips with their actions."""

from functools import lru_cache

from internlm.trunk.layout import Layout, Part, SequenceKind, interleave


@lru_cache(maxsize=64)
def frame_layout(patches: int, kind: SequenceKind, steps: int = 1) -> Layout:
    """Images only: ``patches | state query`` per step (197 tokens at 14x14 patches).

    ``steps`` > 1: frames of a clip in one sequence.
    """
    return interleave([(Part("image", patches), Part("state", 1, query=True))] * steps, kind)


@lru_cache(maxsize=64)
def clip_layout(patches: int, steps: int, kind: SequenceKind, frames: int | None = None) -> Layout:
    """Predictor: ``patches | action query | action | state query`` per step (199 tokens at 14x14 patches; spec §2.5).

    ``frames``: only so many first steps have an image, the others their three tokens alone (None: all; 0: poses only).
    """
    image, others = Part("image", patches), (Part("action_query", 1, query=True), Part("action", 1), Part("state", 1, query=True))
    seen = steps if frames is None else frames
    return interleave([(image, *others)] * seen + [others] * (steps - seen), kind)
