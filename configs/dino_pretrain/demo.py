"""Stage 1 at a size that a laptop's CPU trains in minutes, on the built-in world."""

job_name = "demo_pretrain"
stage = "pretrain"
model = dict(
    hidden_size=192,
    num_layers=4,
    num_heads=6,
    mlp_multiple_of=64,
    image_size=64,
    local_image_size=32,
    patch_size=16,
    stem_norm="layer",
    pose_target="offset",
    pose_context=True,
    prototypes=512,
    head_hidden=384,
    head_bottleneck=128,
)
loss = dict(teacher_temp=0.07, warmup_teacher_temp=0.04, warmup_teacher_temp_share=0.3)
data = dict(
    images=["demo/world"],
    crops=dict(local_crops=4, flip=0.0, init_scale=None, blur_global=(0.5, 0.1)),
    clip=dict(steps=6, frame_stride=15, pose_coordinates="chunk"),
    workers=0,
)
optim = dict(lr=1e-3, final_lr=1e-5, weight_decay_end=0.04, momentum=0.99)
train = dict(steps=300, image_batch=32, accumulation=1, checkpoint_every=100)
