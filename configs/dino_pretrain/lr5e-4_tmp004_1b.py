"""Stage 1, 1B, as published: the 300M run at twice the width and half the batch."""

base = "lr5e-4_tmp004_300m.py"

EPOCHS = 101
IMAGES_PER_PROCESS = 32
PROCESSES = 16
STEPS_PER_EPOCH = 7_614_851 // (IMAGES_PER_PROCESS * PROCESSES)

job_name = "dino_lr5e-4_tmp004_1B"
model = dict(hidden_size=2048, num_heads=16)
train = dict(
    steps=EPOCHS * STEPS_PER_EPOCH,
    image_batch=IMAGES_PER_PROCESS,
    checkpoint_every=STEPS_PER_EPOCH // 4,
)
