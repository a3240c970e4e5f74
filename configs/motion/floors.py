"""What needs no training: zero_velocity, constant_velocity or ridge on recorded body motion, in `egoagent bench motion`."""

system = "forecaster"
job_name = "motion_floors"
forecaster = dict(method="zero_velocity")
train = dict(image_batch=0, clip_batch=64)
