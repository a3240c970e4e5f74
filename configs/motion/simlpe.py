"""siMLPe on recorded body motion: `egoagent bench motion --methods simlpe`, or `egoagent train` of this file.

The other trained methods share its optimizer.
"""

system = "forecaster"
job_name = "motion_simlpe"
forecaster = dict(method="simlpe")
optim = dict(lr=5e-4, final_lr=5e-6, warmup_share=0.05, weight_decay=0.01, weight_decay_end=0.01)
train = dict(steps=400, image_batch=0, clip_batch=64, accumulation=1, log_every=50, checkpoint_every=100)
