"""EgoAgent without images on recorded body motion: `egoagent bench motion --methods egoagent`, or `egoagent train` of this file.

The published system's trunk, action query and pose head at a size for two hours of motion, chunks of 10 poses at 30 Hz. Its own
loss (position and velocity, rolled out) replaces the joint loss.
"""

base = "simlpe.py"
job_name = "motion_cmu"
forecaster = dict(method="egoagent")
model = dict(
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    mlp_multiple_of=64,
    init_std=0.05,
    poses_per_step=10,
    pose_target="offset",
    pose_context=True,
)
train = dict(steps=250, clip_batch=32)
