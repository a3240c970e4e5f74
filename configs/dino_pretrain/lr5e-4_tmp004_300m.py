"""Stage 1, 300M, as published: 16 processes of 64 images (micro-batch 16, accumulation 4), 101 epochs of 7,614,851 frames."""

LR = 5e-4
EPOCHS = 101
FRAMES = 7_614_851  # WalkingTours and Ego-Exo4D
IMAGES_PER_PROCESS = 64
PROCESSES = 16
STEPS_PER_EPOCH = FRAMES // (IMAGES_PER_PROCESS * PROCESSES)

job_name = "dino_lr5e-4_tmp004_300M"
stage = "pretrain"
model = dict(
    hidden_size=1024,
    num_layers=22,
    num_heads=8,
    mlp_ratio=8 / 3,
    norm_eps=1e-6,
    image_size=224,
    local_image_size=112,
    patch_size=16,
    observer_attention="frame",
    prototypes=65_536,
)
loss = dict(
    rep_weight=1.0,
    teacher_temp=0.04,
    warmup_teacher_temp=0.04,
    warmup_teacher_temp_share=3 / EPOCHS,
)
data = dict(
    images=["data/stores/tours", "data/stores/egoexo4d"],  # docs/data.md makes both
    crops=dict(local_crops=6, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4)),
)
optim = dict(
    lr=LR,
    final_lr=LR / 100,
    warmup_share=0.1,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.04,
    weight_decay_end=0.4,
    grad_clip=1.0,
    momentum=0.996,
)
train = dict(
    steps=EPOCHS * STEPS_PER_EPOCH,
    image_batch=IMAGES_PER_PROCESS,
    accumulation=4,
    checkpoint_every=STEPS_PER_EPOCH,
)
