"""The transformer diffusion policy on recorded body motion."""

base = "simlpe.py"
job_name = "motion_diffusion_policy"
forecaster = dict(method="diffusion_policy")
train = dict(steps=2000)
