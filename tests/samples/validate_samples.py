"""A small joint run on takes of which one is held out, and what its log says."""

from internlm.config.resolve import parse_config
from internlm.monitor.metrics import read_metrics

MODEL = dict(
    hidden_size=16, num_layers=1, num_heads=2, mlp_multiple_of=8, image_size=16, local_image_size=8, patch_size=8,
    head_hidden=16, head_bottleneck=8, prototypes=12, poses_per_step=5,
)  # fmt: skip
TIMED = ("time/", "memory/", "seconds", "images_per_s", "tokens_per_s", "data_share")


def config(store, run_dir, every=0, **sections):
    values = {
        "stage": "joint",
        "run_dir": str(run_dir),
        "model": MODEL,
        "data": {"images": [str(store)], "clips": [str(store)], "workers": 0, "clip": {"steps": 2}, "crops": {"local_crops": 1}},
        "optim": {"lr": 1e-2, "momentum": 0.9},
        "train": {
            "steps": 8, "image_batch": 4, "clip_batch": 2, "accumulation": 2, "log_every": 1, "checkpoint_every": 3,
            "validate_every": every,
        },
        "monitor": {"tensorboard": False, "progress": False, "health_every": 2},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = values[name] | section if isinstance(section, dict) and name in values else section
    return parse_config(values)


def figures(run_dir):
    return [{k: v for k, v in record.items() if not k.startswith(TIMED)} for record in read_metrics(run_dir)]


def without(records):
    return [{name: value for name, value in record.items() if not name.startswith("val/")} for record in records]
