"""Whether stored frames lie where their numbers say: the times at which they were recorded against number / rate."""

import numpy as np

from dataset_preprocess.egoexo import FRAME_RATE, SOURCE
from internlm.data.store import Take

STAMPS = "timestamp_ns"  # the label that holds them, a row for each stored frame
_SLACK = 1e-3  # of a step: rounding of rates and stamps


def time_faults(take: Take) -> list[str]:
    """Faults of a take's frame times in words; none where nothing is known of its times. StoreError for damaged labels.

    A frame has the number nearest to its time, so the two may differ by half a step either way and no more.
    """
    rate = take.info.frame_rate
    if take.info.source == SOURCE and rate != FRAME_RATE:
        return [f"take.json says {rate:g} Hz; frames of {SOURCE} are counted at {FRAME_RATE:g} Hz"]
    labels = take.labels()
    stamps, numbers = labels.get(STAMPS), labels.get("frames")
    if stamps is None or len(stamps) < 2:
        return []
    if stamps.ndim != 1 or stamps.dtype.kind not in "iu":
        return [f"labels.npz: {STAMPS} is {stamps.dtype} {list(stamps.shape)}, expected one integer for each frame"]
    stamps = stamps.astype(np.int64)
    if (back := np.flatnonzero(np.diff(stamps) <= 0)).size:
        return [f"frame {numbers[back[0] + 1]} was recorded no later than frame {numbers[back[0]]}"]
    seconds, places = (stamps - stamps[0]) / 1e9, (numbers - numbers[0]) / rate
    off = seconds - places
    # Where in its own step the first frame lies is unknown: only how far the differences spread tells.
    spread = np.maximum.accumulate(off) - np.minimum.accumulate(off)
    wrong = np.flatnonzero(spread > (1 + _SLACK) / rate)
    if not wrong.size:
        return []
    first = wrong[0]
    return [
        f"frame {numbers[first]} was recorded {seconds[first]:.3f} s after the first, its number says {places[first]:.3f} s at "
        f"{rate:g} Hz; by their times the frames have {(numbers[-1] - numbers[0]) / seconds[-1]:.4g} Hz"
    ]
