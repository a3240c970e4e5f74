"""The demo's stage 2 under DeepSpeed's ZeRO 1."""

base = "../../joint_train/demo.py"

parallel = dict(engine="deepspeed", zero=1)
