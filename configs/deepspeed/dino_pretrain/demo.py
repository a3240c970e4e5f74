"""The demo's stage 1 under DeepSpeed's ZeRO 1: `egoagent demo --configs configs/deepspeed --out runs/demo-deepspeed`."""

base = "../../dino_pretrain/demo.py"

parallel = dict(engine="deepspeed", zero=1)
