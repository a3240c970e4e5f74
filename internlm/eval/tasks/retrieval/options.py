"""Options of future-state retrieval."""

from dataclasses import dataclass
from pathlib import Path

from ...options import MODEL, ClipOptions, option, whole

SCOPES = ("pool", "take", "clip")


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(ClipOptions):
    """What is compared, with which frames, how far ahead."""

    features: Path | None = option(None, "stored features of any model (.npz or .safetensors)", type=Path, one_of=MODEL)
    gallery: str = option("pool", "frames that compete", choices=SCOPES)
    feature: str | None = option(None, "feature (default: the system's usual one, bottleneck)")
    horizon: int = option(1, "steps from the current frame to the right answer", type=whole(1))
    frame_stride: int | None = option(None, "with --features: frame numbers from one step to the next", type=whole(1))
    steps: int = option(1, "with --features: steps of a clip", type=whole(1))
    pictures: Path | None = option(None, "write a page of current frames beside what was retrieved (HTML)", type=Path)

    @property
    def source(self) -> str:
        return str(self.features or self.run or self.checkpoint)
