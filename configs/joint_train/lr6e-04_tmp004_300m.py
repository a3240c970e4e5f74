"""Stage 2, 300M: 32 processes of 60 clips, 1920 in all, from the stage-1 weights.

Published: lr 6e-4, batch 1920, temperature 0.04, loss weights 2/1/3. Not published, and chosen here: the number of steps
(25 hours on 32 A100 at 40 % utilisation are about 16,000), the accumulation (micro-batches of 4 clips), and the other
optimiser values, which are stage 1's.
"""

base = "../dino_pretrain/lr5e-4_tmp004_300m.py"

LR = 6e-4
EGO_EXO = "data/stores/egoexo4d"

job_name = "joint_lr6e-04_tmp004_300M"
stage = "joint"
loss = dict(rep_weight=2.0, pred_weight=1.0, act_weight=3.0, visibility_weight=1.0)
data = dict(clips=[EGO_EXO], clip=dict(steps=20, frame_stride=5, pose_coordinates="camera"))
optim = dict(lr=LR, final_lr=5e-6)
train = dict(
    steps=16_000,
    image_batch=60,
    clip_batch=60,
    accumulation=15,
    checkpoint_every=1_000,
    init_from="runs/dino_lr5e-4_tmp004_300M",
)
