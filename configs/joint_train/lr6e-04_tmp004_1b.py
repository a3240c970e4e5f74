"""Stage 2, 1B: 48 processes of 40 clips, 1920 in all, from the stage-1 weights. See the 300M file for what is published."""

base = "lr6e-04_tmp004_300m.py"

job_name = "joint_lr6e-04_tmp004_1B"
model = dict(hidden_size=2048, num_heads=16)
train = dict(
    steps=14_500,
    image_batch=40,
    clip_batch=40,
    accumulation=20,
    init_from="runs/dino_lr5e-4_tmp004_1B",
)
