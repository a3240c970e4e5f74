"""CPU cost of the data path beside a plain PIL pipeline, in one run on one thread: python benchmarks/data.py [--size 64]

Times are processor seconds of this process, so that other work on the machine disturbs them less. The PIL pipeline is
RandomResizedCrop with bicubic, flip, jitter, grey, blur and solarize per view, the usual multi-crop reference.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from internlm.config.resolve import parse_config
from internlm.config.schema import Config
from internlm.data.loader import training_batches
from internlm.data.photometric import photometric
from internlm.data.store import PoseTrack, StoreWriter, TakeInfo
from internlm.systems.resolve import build_system_on_meta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="pixels of a global crop's and a clip frame's side")
    parser.add_argument("--stored", type=int, help="pixels of a stored frame's side (default: --size)")
    parser.add_argument("--local-crops", type=int, default=4)
    parser.add_argument("--batches", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    stored = args.stored or args.size
    with tempfile.TemporaryDirectory() as folder:
        frames = write_store(Path(folder) / "store", stored)
        path = str(Path(folder) / "store")
        images = per_item(batches(config(path, args, images=64)), 64, args.batches)
        clips = per_item(batches(config(path, args, clips=8)), 8, args.batches)
        whole = per_item(batches(config(path, args, images=64)), 64, args.batches, device_part)
    naive = naive_seconds(frames, args)
    figures = {
        "size": args.size,
        "stored": stored,
        "views": f"2x{args.size} + {args.local_crops}x{args.size // 2}",
        "images_per_s": round(1 / images, 1),
        "images_per_s_with_photometric": round(1 / whole, 1),
        "naive_pil_images_per_s": round(1 / naive, 1),
        "ratio_with_photometric": round(naive / whole, 2),
        "clips_per_s": round(1 / clips, 1),
        "ms_per_batch_of_8_clips": round(8e3 * clips, 2),
    }
    print(json.dumps(figures, indent=1))


def write_store(path: Path, size: int) -> list[bytes]:
    """Four takes of 20 s at 30 Hz with an image every 5 frame numbers; returns the encoded frames of the last."""
    rng, writer = np.random.default_rng(0), StoreWriter(path)
    numbers = np.arange(600)
    for take in range(4):
        coarse = rng.integers(0, 256, (120, 12, 12, 3), dtype=np.uint8)
        pictures = [cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse]
        encoded = [cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for p in pictures]
        joints = rng.normal(size=(600, 17, 3)).astype(np.float32)
        track = PoseTrack(numbers, joints, np.ones((600, 17), bool), numbers, np.tile(np.eye(4), (600, 1, 1)))
        writer.add_take(TakeInfo(f"take_{take}", str(take), "train", 30, None, "world"), zip(range(0, 600, 5), encoded), track)
    return encoded


def config(path: str, args: argparse.Namespace, *, images: int = 0, clips: int = 0) -> Config:
    return parse_config(
        {
            "stage": "joint" if clips else "pretrain",
            "model": {"image_size": args.size, "local_image_size": args.size // 2, "patch_size": 8},
            "data": {
                "images": (path,),
                "clips": (path,),
                "workers": 0,
                "crops": {"local_crops": args.local_crops},
                "clip": {"steps": 6, "frame_stride": 15, "pose_stride": 3, "pose_coordinates": "chunk"},
            },
            "train": {"image_batch": images, "clip_batch": clips, "accumulation": 1},
        }
    )


def batches(config: Config):
    """A run's batches from its first step on."""
    return training_batches(build_system_on_meta(config).streams(), range(config.train.steps), seed=config.seed, data=config.data)


def per_item(batches, count: int, repeats: int, after=None) -> float:
    """Processor seconds per sample."""
    for _ in range(2):
        pair = next(batches)
        if after:
            after(pair)
    start = time.process_time()
    for _ in range(repeats):
        pair = next(batches)
        if after:
            after(pair)
    seconds = time.process_time() - start
    batches.close()
    return seconds / (repeats * count)


def device_part(pair) -> None:
    images = pair["image"]
    photometric(images.global_crops.flatten(0, 1), images.global_photometric.flatten(0, 1))
    photometric(images.local_crops.flatten(0, 1), images.local_photometric.flatten(0, 1))


def naive_seconds(frames: list[bytes], args: argparse.Namespace) -> float:
    rng = np.random.default_rng(0)
    start = time.process_time()
    for data in frames:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for view in range(2 + args.local_crops):
            naive_view(rng, image, args.size if view < 2 else args.size // 2, view)
    return (time.process_time() - start) / len(frames)


def naive_view(rng: np.random.Generator, image: Image.Image, size: int, view: int) -> np.ndarray:
    share = rng.uniform(*((0.4, 1.0) if view < 2 else (0.05, 0.4)))
    side = round(image.width * share**0.5)
    left, top = rng.integers(0, image.width - side + 1, 2).tolist()
    crop = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        crop = ImageOps.mirror(crop)
    if rng.random() < 0.8:
        crop = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.6, 1.4))
        crop = ImageEnhance.Contrast(crop).enhance(rng.uniform(0.6, 1.4))
        crop = ImageEnhance.Color(crop).enhance(rng.uniform(0.8, 1.2))
        hue, saturation, value = crop.convert("HSV").split()
        hue = Image.fromarray(np.asarray(hue) + np.uint8(rng.integers(0, 256)))
        crop = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if rng.random() < 0.2:
        crop = ImageOps.grayscale(crop).convert("RGB")
    if rng.random() < (1.0 if view == 0 else 0.1 if view == 1 else 0.5):
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    if view == 1 and rng.random() < 0.2:
        crop = ImageOps.solarize(crop)
    values = np.asarray(crop, np.float32).transpose(2, 0, 1) / 255
    return (values - np.float32(0.45)) / np.float32(0.225)


if __name__ == "__main__":
    main()
