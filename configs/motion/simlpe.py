"""siMLPe on recorded body motion; the defaults of system forecaster are its recipe."""

system = "forecaster"
job_name = "motion_simlpe"
forecaster = dict(method="simlpe")
train = dict(steps=400, clip_batch=64)
