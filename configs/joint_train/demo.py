"""Stage 2 at a size that a laptop's CPU trains in minutes, on the built-in world."""

base = "../dino_pretrain/demo.py"

job_name = "demo_joint"
stage = "joint"
data = dict(clips=["demo/world"])
train = dict(steps=600, image_batch=32, clip_batch=16, init_from="runs/demo_pretrain")
