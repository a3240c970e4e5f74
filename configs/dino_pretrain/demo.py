"""Stage 1 at a size that a laptop's CPU trains in minutes, on the built-in world.

What a small model needs that the published recipe does not (chosen on validation takes, docs/results.md): a shallow trunk,
which buys steps; batch norm in the stem and balanced (Sinkhorn) targets; prototypes that stay where they were drawn, because
learned ones first run together and the targets turn uniform; a low teacher temperature and a little KoLeo, because the
features of a fresh network hardly differ; full hue turns, because a room's colours say nothing about its class.
"""

job_name = "demo_pretrain"
stage = "pretrain"
model = dict(
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    mlp_multiple_of=64,
    init_std=0.05,
    image_size=64,
    local_image_size=32,
    patch_size=16,
    stem_norm="batch",
    pose_target="offset",
    pose_context=True,
    prototypes=512,
    head_hidden=256,
    head_bottleneck=128,
)
loss = dict(
    targets="sinkhorn",
    rep_weight=1.0,
    student_temp=0.05,
    teacher_temp=0.015,
    warmup_teacher_temp=0.015,
    koleo_weight=0.1,
    row_chunk=4096,
)
data = dict(
    images=["demo/world"],
    crops=dict(
        local_crops=2,
        global_scale=(0.5, 1.0),
        local_scale=(0.15, 0.4),
        init_scale=None,
        flip=0.0,
        hue=0.5,
        gray=0.2,
        blur_global=(0.0, 0.0),
        blur_local=0.0,
        solarize=0.0,
    ),
    clip=dict(steps=6, frame_stride=15, pose_coordinates="chunk"),
    workers=1,
)
optim = dict(lr=2e-3, final_lr=2e-5, weight_decay_end=0.04, momentum=0.99, momentum_end=0.99, freeze_prototypes_steps=None)
train = dict(steps=450, image_batch=48, accumulation=1, checkpoint_every=200)
monitor = dict(health_every=20)
