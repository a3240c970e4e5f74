"""What each upstream config key means here: one row a key. ``legacy.py`` applies the rows.

Key names and published values: spec of the upstream configs. A key that has no row is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Map:
    """The value goes to one of our keys, through ``convert``."""

    key: str
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Ignore:
    """The value has no effect here."""

    reason: str


@dataclass(frozen=True)
class Only:
    """One of these values is what this project does anyway; any other cannot be honoured."""

    values: tuple
    reason: str


Rule = Map | Ignore | Only

_RUN_FOLDER = "checkpoints of both branches lie in the run folder (run_dir)"
_NO_STORE = "there is no object store; checkpoints are written to disk"
_NO_FP16 = "mixed precision is bfloat16, which needs no loss scale"
_FROM_DISK = "follows from the data on disk"
_EVALUATION = "evaluation is a command of its own"
_NO_CODEBOOK = "the convolutional stem replaces the VQGAN codebook"
_STEM = "the convolutional stem is the only tokenizer"
_NO_DROPOUT = "there is no dropout"
_PYTORCH = "PyTorch's attention takes its flash kernel where there is one; model.attention=flash asks for the flash-attn package"
_OVERLAP = "the engine decides when it communicates"
_ALERT = "no alert service"
_CHECKED = "checked against the model section"

TRUNK: dict[str, Rule] = {
    "hidden_size": Map("model.hidden_size"),
    "num_layers": Map("model.num_layers"),
    "num_attention_heads": Map("model.num_heads"),
    "mlp_ratio": Map("model.mlp_ratio"),
    "layer_norm_epsilon": Map("model.norm_eps"),
    "output_dim": Map("model.prototypes"),
    "perframe_atten": Map("model.observer_attention", lambda per_frame: "frame" if per_frame else "clip"),
    "lvm_config.conv_stem_config.img_size": Map("model.image_size"),
    "lvm_config.conv_stem_config.patch_size": Map("model.patch_size"),
    # USE_VQ_EMBEDDING and USE_VQ_ENCODER choose another tokenizer in place of the stem; the released files set both to False.
    "lvm_config.enable": Only((False,), f"it asks for a VQGAN's codebook, and {_STEM}"),
    "lvm_config.enable_encoder": Only((False,), f"it asks for a VQGAN's encoder, and {_STEM}"),
    "lvm_config.enable_conv_stem": Only((True,), _STEM),
    "lvm_config.embedding_cfg": Ignore(_NO_CODEBOOK),
    "lvm_config.encoder_cfg": Ignore(_NO_CODEBOOK),
    "vocab_size": Ignore(_NO_CODEBOOK),
    "embed_split_hidden": Ignore(_NO_CODEBOOK),
    "embed_grad_scale": Only((1, None), "the gradient of the embedding is not rescaled"),
    "teacher": Ignore("each branch knows its role"),
    "use_cls_token": Only((True,), "the state query is always read out"),
    "use_multi_crop": Only((True, False), "data.local_crops_number says how many local crops there are"),
    "use_tracking": Only((False,), "there is no DoRA tracking variant"),
    "return_track": Only((False,), "there is no DoRA tracking variant"),
    "head_type": Only(("dino",), "the DINO head is the only head"),
    "parallel_output": Ignore("logits of one row chunk are never gathered"),
    "apply_post_layer_norm": Only((False,), "blocks are pre-norm"),
    "dtype": Ignore("train.dtype: bfloat16 autocast on CUDA, float32 on a CPU; float16 is not offered"),
    "norm_type": Only(("rmsnorm",), "the norm is RMSNorm"),
    "use_flash_attn": Ignore(_PYTORCH),
    "causal": Only((True,), "the published sequence is causal"),
    "frames2batch": Ignore("frames of one image each are always a batch"),
    "num_chunks": Only((1,), "there is no pipeline parallelism"),
    # Arguments of the framework's own models, for a file that names one of them.
    "rope_base": Map("model.rope_base"),
    "drop_rate": Only((0, None), _NO_DROPOUT),
    "attn_drop_rate": Only((0, None), _NO_DROPOUT),
    "dropout_selective_checkpoint": Ignore(_NO_DROPOUT),
    "residual_in_fp32": Ignore("train.dtype says what is computed in which precision"),
    "use_scaled_init": Only((True,), "output projections start smaller with depth"),
    "use_swiglu": Only((True,), "the feed-forward network is SwiGLU"),
    "is_reward": Only((False,), "there is no reward head"),
    "no_bias": Only((False,), "attention has biases"),
    "use_dynamic_ntk_rope": Only((False,), "rotary positions are not rescaled"),
}

RULES: dict[str, Rule] = {
    "JOB_NAME": Map("job_name"),
    "enable_tb": Map("monitor.tensorboard"),
    "tensorboard_folder": Ignore("TensorBoard's files are in the run folder"),
    "resume_tb_folder": Ignore("TensorBoard's files are in the run folder"),
    "alert_address": Ignore(_ALERT),
    "use_fp32_norm": Ignore("autocast chooses the precision of norms"),
    "LEN_DATASET": Ignore("an epoch is the data on disk; schedules run over train.steps"),
    "model_type": Only(("INTERNLM_VQGAN",), "there is one trunk"),
    "teacher_type": Only(("INTERNLM_VQGAN",), "there is one trunk"),
    "teacher_ckpt_folder": Ignore("the observer starts as a copy of the predictor and is saved beside it"),
    "cudnn_deterministic": Ignore("set through PyTorch"),
    "cudnn_benchmark": Ignore("set through PyTorch"),
    **{f"model.{key}": rule for key, rule in TRUNK.items()},
    # Upstream's number is the share of the blocks; here it is all or none. The teacher has no backward pass.
    "model.checkpoint": Map("parallel.activation_checkpointing", lambda share: "full" if share else "none"),
    "teacher.checkpoint": Ignore("the observer has no backward pass"),
    **{f"teacher.{key}": Ignore(_CHECKED) if isinstance(rule, Map) else rule for key, rule in TRUNK.items()},
    "kd_config.type": Ignore("loss.name tells the stage"),
    "kd_config.temperature": Ignore("holds the observer's momentum, which momentum_scheduler sets"),
    "momentum_scheduler.momentum_teacher": Map("optim.momentum"),
    "ckpt.enable_save_ckpt": Only((True,), "a run always saves its checkpoints"),
    "ckpt.save_ckpt_folder": Ignore(_RUN_FOLDER),
    "ckpt.save_teacher_ckpt_folder": Ignore(_RUN_FOLDER),
    "ckpt.checkpoint_every": Map("train.checkpoint_every"),
    "ckpt.async_upload": Ignore(_NO_STORE),
    "ckpt.async_upload_tmp_folder": Ignore(_NO_STORE),
    "ckpt.oss_snapshot_freq": Ignore(_NO_STORE),
    "ckpt.snapshot_ckpt_folder": Ignore(_NO_STORE),
    "ckpt.auto_resume": Ignore("a run always continues from its newest checkpoint; `egoagent train --no-resume` starts anew"),
    "ckpt.load_optimizer": Ignore("a run that continues takes everything, one that starts from another takes weights alone"),
    "ckpt.stop_file_path": Ignore("a run stops on SIGTERM or Ctrl-C, after saving"),
    "data.seq_len": Ignore("the sequence follows from image size, patch size and clip steps"),
    "data.packed_length": Ignore("the sequence follows from image size, patch size and clip steps"),
    "data.valid_micro_num": Ignore(_EVALUATION),
    "data.valid_every": Ignore(_EVALUATION),
    "data.valid_folder": Ignore(_EVALUATION),
    "data.gradient_accumulation": Map("train.accumulation"),
    "data.total_steps": Map("train.steps"),
    "data.pack_sample_into_one": Only((False,), "samples are never packed"),
    "data.train_one_epoch": Only((False,), "the length is train.steps"),
    "data.skip_batches": Only(("", None, ()), "no batch is skipped"),
    "data.rampup_batch_size": Only(("", None, ()), "the batch size is constant"),
    "data.min_length": Ignore(_FROM_DISK),
    "data.dataset_type": Ignore(_FROM_DISK),
    "data.padding_token": Ignore(_NO_CODEBOOK),
    "data.empty_cache_and_diag_interval": Ignore("the allocator's cache is not emptied"),
    "data.diag_outlier_ratio": Ignore("the allocator's cache is not emptied"),
    "data.global_crops_scale": Map("data.crops.global_scale", list),
    "data.local_crops_scale": Map("data.crops.local_scale", list),
    "data.init_crop_size": Ignore("views are cut from the source image through data.crops.init_scale, without a copy between"),
    "data.vid_crop_size": Map("model.image_size"),
    "data.local_crop_size": Map("model.local_image_size"),
    "data.norm_vid": Only((True,), "images are always normalised"),
    "grad_scaler": Ignore(_NO_FP16),
    "hybrid_zero_optimizer.clip_grad_norm": Map("optim.grad_clip"),
    "hybrid_zero_optimizer.overlap_sync_grad": Ignore(_OVERLAP),
    "hybrid_zero_optimizer.overlap_sync_param": Ignore(_OVERLAP),
    "hybrid_zero_optimizer.reduce_bucket_size": Ignore(_OVERLAP),
    "hybrid_zero_optimizer.zero_overlap_communication": Ignore(_OVERLAP),
    "loss.label_smoothing": Only((0,), "targets are the observer's probabilities"),
    "loss.incld_cls_token": Only((True,), "the loss is on the state query"),
    "loss.use_multicrop": Only((True, False), "data.local_crops_number says how many local crops there are"),
    "loss.use_tracking": Only((False,), "there is no DoRA tracking variant"),
    "loss.teacher_temp": Map("loss.teacher_temp"),
    "loss.warmup_teacher_temp": Map("loss.warmup_teacher_temp"),
    "adam.lr": Map("optim.lr"),
    "adam.adam_beta2_c": Only((0,), "beta2 is constant"),
    "adam.adam_eps": Map("optim.eps"),
    "adam.weight_decay": Map("optim.weight_decay"),
    "adam.weight_decay_end": Map("optim.weight_decay_end"),
    "lr_scheduler.init_steps": Only((0,), "warm-up starts at step 0"),
    "lr_scheduler.warmup_ratio": Map("optim.warmup_share"),
    "lr_scheduler.eta_min": Map("optim.final_lr"),
    "lr_scheduler.last_epoch": Only((-1,), "the schedule is a function of the step"),
    "beta2_scheduler.c": Only((0,), "beta2 is constant"),
    "beta2_scheduler.cur_iter": Ignore("beta2 is constant"),
    "parallel.tensor": Map("parallel.tp", lambda value: value["size"] if isinstance(value, dict) else value),
    "parallel.sequence_parallel": Map("parallel.sequence_parallel"),
    "monitor.alert": Ignore(_ALERT),
    "monitor.tensorboard.queue_max_length": Ignore("TensorBoard keeps its own queue"),
}

# Keys that only make sense together; `legacy.py` reads them.
COMBINED = frozenset(
    """
    kd_config.gt_weight kd_config.kd_weight kd_config.reg_weight kd_config.dino_weight motion_config
    momentum_scheduler.epochs ckpt.load_ckpt_folder ckpt.load_ckpt_info ckpt.load_model_only_folder
    data.micro_num data.micro_bsz data.batch_size data.train_folder data.use_egoexo data.frames_per_clip data.step_between_clips
    data.use_local_crop data.local_crops_number data.num_frame_tokens
    loss.name loss.out_dim loss.local_crops_number loss.warmup_teacher_temp_epochs loss.epochs loss.grad_accum loss.batch_size
    loss.global_token_len loss.local_token_len loss.nframes
    adam.adam_beta1 adam.adam_beta2 lr_scheduler.total_steps beta2_scheduler.init_beta2
    parallel.zero1 parallel.pipeline parallel.pipeline.size parallel.pipeline.interleaved_overlap
    """.split()
)
KNOWN = frozenset(RULES) | COMBINED

# Rows that are calculated with, and so must be numbers before anything else is checked.
NUMBERS = frozenset(
    """
    kd_config.gt_weight kd_config.kd_weight kd_config.reg_weight kd_config.dino_weight
    data.micro_num data.micro_bsz data.frames_per_clip data.gradient_accumulation data.local_crop_size
    model.lvm_config.conv_stem_config.img_size model.lvm_config.conv_stem_config.patch_size
    loss.warmup_teacher_temp_epochs loss.epochs
    """.split()
)
