"""A stage-1 config of 300M with the keys and values of the released file."""

JOB_NAME = "dino_lr5e-4_tmp004_300M"
N_GPUS = 16
PERFRAME_ATTEN = True
USE_CLS_TOKEN = True
USE_VQ_EMBEDDING = False
USE_VQ_ENCODER = False
USE_CONV_STEM = True
USE_MULTI_CROP = True
USE_TRACKING = False
LEARNING_RATE = 5e-4
LR_ETA_MIN = 5e-6
TEMPERATURE = 0.04
BATCH_SIZE = 64
BATCH_ACCUM = 4
EPOCHS = 101
N_FRAMES = 1
N_LOCAL_CROPS = 6
IMAGE_SIZE = 224
FPS = 30
LEN_DATASET = 7614851
ONE_EPOCH_ITERS = LEN_DATASET // (BATCH_SIZE * N_GPUS)
USE_FLASH_ATTN = True
USE_CAUSAL_ATTN = True
FRAMES_2_BATCH = False
DO_ALERT = False
VQGAN_FOLDER = "resources/vqgan_model"
N_FRAME_TOKENS = (IMAGE_SIZE // 16) ** 2
N_LOCAL_TOKENS = (IMAGE_SIZE // 32) ** 2
SEQ_LEN = 1
HIDDEN_SIZE = 1024
NUM_ATTENTION_HEAD = 8
CHECKPOINT_EVERY = ONE_EPOCH_ITERS
TOURS = "Venice Amsterdam Bangkok Chiang_Mai Istanbul Kuala_Lumpur Singapore Stockholm Wildlife Zurich".split()
VALID_FOLDER = []

model_type = "INTERNLM_VQGAN"
teacher_type = "INTERNLM_VQGAN"
teacher_ckpt_folder = f"local:llm_teacher_ckpts/{JOB_NAME}"


def _branch(teacher):
    return dict(
        teacher=teacher,
        perframe_atten=PERFRAME_ATTEN,
        use_cls_token=USE_CLS_TOKEN,
        use_multi_crop=USE_MULTI_CROP,
        use_tracking=USE_TRACKING,
        head_type="dino",
        checkpoint=False if teacher else 1,
        num_attention_heads=NUM_ATTENTION_HEAD,
        embed_split_hidden=True,
        vocab_size=8192,
        embed_grad_scale=1,
        parallel_output=True,
        hidden_size=HIDDEN_SIZE,
        output_dim=65536,
        num_layers=22,
        mlp_ratio=8 / 3,
        apply_post_layer_norm=False,
        dtype="torch.float16",
        norm_type="rmsnorm",
        layer_norm_epsilon=1e-6,
        use_flash_attn=USE_FLASH_ATTN,
        return_track=not USE_FLASH_ATTN,
        causal=USE_CAUSAL_ATTN,
        frames2batch=FRAMES_2_BATCH,
        num_chunks=1,
        lvm_config=dict(
            enable=USE_VQ_EMBEDDING,
            embedding_cfg=dict(vq_model_path=VQGAN_FOLDER, embedding_dim=HIDDEN_SIZE, freeze_vq_model=True),
            enable_conv_stem=USE_CONV_STEM,
            conv_stem_config=dict(img_size=IMAGE_SIZE, patch_size=16),
            enable_encoder=USE_VQ_ENCODER,
            encoder_cfg=dict(vq_model_path=VQGAN_FOLDER, freeze_vq_model=True),
        ),
    )


model = _branch(teacher=False)
teacher = _branch(teacher=True)
kd_config = dict(gt_weight=0.0, kd_weight=1.0, type="dinoimgcls", temperature=0.996)
momentum_scheduler = dict(momentum_teacher=0.996, epochs=EPOCHS)
ckpt = dict(
    enable_save_ckpt=True,
    save_ckpt_folder=f"local:save_ckpt/{JOB_NAME}",
    save_teacher_ckpt_folder=f"local:save_ckpt/{JOB_NAME}_teacher",
    checkpoint_every=CHECKPOINT_EVERY,
    async_upload=True,
    async_upload_tmp_folder="internlm_tmp_ckpt/",
    oss_snapshot_freq=0,
)
data = dict(
    seq_len=SEQ_LEN,
    micro_num=BATCH_SIZE,
    micro_bsz=N_FRAMES,
    valid_micro_num=2,
    valid_every=0,
    gradient_accumulation=BATCH_ACCUM,
    pack_sample_into_one=False,
    train_one_epoch=False,
    total_steps=ONE_EPOCH_ITERS * EPOCHS,
    skip_batches="",
    rampup_batch_size="",
    min_length=50,
    train_folder=[f"data/WTour/Walking_Tour_{tour}.mp4" for tour in TOURS],
    valid_folder=None,
    empty_cache_and_diag_interval=10000,
    diag_outlier_ratio=1.1,
    padding_token=8331,
    frames_per_clip=N_FRAMES,
    dataset_type="WTVideos",
    step_between_clips=FPS,
    global_crops_scale=(0.4, 1.0),
    use_local_crop=USE_MULTI_CROP,
    use_egoexo=True,
    local_crops_scale=(0.05, 0.4),
    local_crops_number=N_LOCAL_CROPS,
    init_crop_size=300,
    vid_crop_size=IMAGE_SIZE,
    local_crop_size=IMAGE_SIZE // 2,
    norm_vid=True,
    num_frame_tokens=N_FRAME_TOKENS,
)
grad_scaler = dict(
    fp16=dict(initial_scale=2**16, min_scale=1, growth_interval=1000),
    growth_factor=2,
    backoff_factor=0.5,
    max_scale=2**24,
    hysteresis=2,
)
hybrid_zero_optimizer = dict(
    overlap_sync_grad=False, overlap_sync_param=False, reduce_bucket_size=512 * 1024 * 1024, clip_grad_norm=1.0
)
loss = dict(
    name="dinoimgcls",
    incld_cls_token=True,
    use_multicrop=USE_MULTI_CROP,
    use_tracking=USE_TRACKING,
    out_dim=65536,
    local_crops_number=N_LOCAL_CROPS,
    warmup_teacher_temp=TEMPERATURE,
    teacher_temp=TEMPERATURE,
    warmup_teacher_temp_epochs=3,
    epochs=EPOCHS,
    grad_accum=BATCH_ACCUM,
    batch_size=BATCH_SIZE // BATCH_ACCUM,
    global_token_len=N_FRAME_TOKENS,
    local_token_len=N_LOCAL_TOKENS,
    nframes=N_FRAMES,
)
adam = dict(
    lr=LEARNING_RATE,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_beta2_c=0,
    adam_eps=1e-8,
    weight_decay=0.04,
    weight_decay_end=0.4,
)
lr_scheduler = dict(total_steps=data["total_steps"], init_steps=0, warmup_ratio=0.1, eta_min=LR_ETA_MIN, last_epoch=-1)
beta2_scheduler = dict(init_beta2=adam["adam_beta2"], c=adam["adam_beta2_c"], cur_iter=-1)
parallel = dict(zero1=1, pipeline=dict(size=1, interleaved_overlap=True), sequence_parallel=False)
cudnn_deterministic = False
cudnn_benchmark = False
monitor = dict(
    alert=dict(enable_feishu_alert=DO_ALERT, feishu_alert_address=None, light_monitor_address=None),
)
