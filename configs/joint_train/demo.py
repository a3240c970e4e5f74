"""Stage 2 at a size that a laptop's CPU trains in minutes, on the built-in world."""

base = "../dino_pretrain/demo.py"

job_name = "demo_joint"
stage = "joint"
data = dict(clips=["demo/world"], clip=dict(crop_scale=(0.7, 1.0), color_jitter=0.5))
# The observer almost stands still: targets that sharpen while they are learned are never predicted.
optim = dict(momentum=0.998, momentum_end=1.0, lr=1.5e-3)
# One temperature on both sides, so that a perfect prediction has no loss left.
loss = dict(pred_weight=3.0, pred_temp=0.04)
train = dict(steps=550, image_batch=12, clip_batch=16, init_from="runs/demo_pretrain")
