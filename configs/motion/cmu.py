"""EgoAgent without images on recorded body motion: `egoagent bench motion --data cmu`.

The published system's trunk, action query and pose head at a size for two hours of motion, chunks of 10 poses at 30 Hz. The
recording's joints and the windows' length come from the benchmark; its own loss (position and velocity, rolled out) replaces
the joint loss.
"""

job_name = "motion_cmu"
stage = "joint"
model = dict(
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    mlp_multiple_of=64,
    init_std=0.05,
    use_images=False,
    poses_per_step=10,
    pose_target="offset",
    pose_context=True,
)
data = dict(clip=dict(steps=5, frame_stride=10))
optim = dict(lr=5e-4, final_lr=5e-6, warmup_share=0.05, weight_decay=0.01, weight_decay_end=0.01)
train = dict(steps=250, image_batch=0, clip_batch=32, accumulation=1)
