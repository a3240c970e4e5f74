"""How large a demo is: the one in minutes, and the learning proof."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSize:
    """How much is made, trained and measured. Overrides are ``section.key=value`` for the stages' config files."""

    takes: tuple[int, int, int]  # train, val, test
    seconds: float = 30.0  # of a take
    side: int = 96  # pixels of a stored frame: crops are enlarged less than from the model's 64
    image_stride: int = 15  # frame numbers between stored frames, as those of a clip (data.clip.frame_stride)
    stage1: tuple[str, ...] = ()
    stage2: tuple[str, ...] = ()
    knn_frame_stride: int = 1  # of the stored frames, for voting and tested images alike
    clips: int | None = 256  # held-out clips at most


HELD_OUT = ("train.validate_every=50", "train.validate_batches=1")  # a hundredth of the time
# Steps of 1.5 s: half a second later the current frame is simply a good answer, and how the wearer moves hardly matters.
AHEAD = ("data.clip.frame_stride=45", "data.clip.pose_stride=9")
SMALL = DemoSize(
    takes=(300, 8, 24),  # many rooms: with 96 the next state was learned by heart
    image_stride=45,
    stage1=("train.steps=350", *HELD_OUT),
    stage2=("train.steps=400", *AHEAD, *HELD_OUT),
)
# Smaller crops teach that a view and the same view a little turned are one, and the next state is a view a little turned.
# Only a long run gains by larger ones.
LARGE_CROPS = ("data.crops.global_scale=[0.75, 1.0]", "data.crops.local_scale=[0.3, 0.6]")
FULL = DemoSize(
    takes=(800, 24, 48),
    stage1=("train.steps=1100", *LARGE_CROPS, *HELD_OUT),
    stage2=("train.steps=5000", *LARGE_CROPS, *HELD_OUT),
    clips=None,
)
