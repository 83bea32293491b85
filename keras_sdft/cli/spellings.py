"""Flags as diffusers, kohya's scripts and OneTrainer spell them."""

from __future__ import annotations

from collections.abc import Collection

# Ours: theirs. Where one of theirs stands with several of ours, it is the
# first that the command has.
OURS = {
    "model": "pretrained_model_name_or_path base_model_name model_id "
    "checkpoint_path",
    "data": "train_data_dir dataset_name dataset_config",
    "instance_data_dir": "train_data_dir dataset_name dataset_config",
    "class_data_dir": "reg_data_dir",
    "class_prompt": "with_prior_preservation",
    "output_dir": "logging_dir",
    "output": "output_name dump_path",
    "batch_size": "train_batch_size",
    "num_train_epochs": "max_train_epochs epochs",
    "max_train_steps": "steps",
    "num_steps": "steps num_inference_steps",
    "guidance_scale": "cfg_scale",
    "negative_prompt": "negative",
    "learning_rate": "lr unet_lr",
    "text_encoder_learning_rate": "text_encoder_lr learning_rate_te",
    "text_encoder_stop_step": "stop_text_encoder_training",
    "token": "placeholder_token token_string",
    "new_token": "placeholder_token token_string",
    "init_word": "initializer_token",
    "lora_rank": "rank lora_r network_dim",
    "lora_alpha": "network_alpha",
    "lora_dropout": "network_dropout",
    "dora": "lora_decompose",
    "num_vectors": "num_vectors_per_token",
    "optimizer": "optimizer_type",
    "lr_scheduler": "learning_rate_scheduler",
    "lr_warmup_steps": "learning_rate_warmup_steps",
    "lr_num_cycles": "lr_scheduler_num_cycles learning_rate_cycles",
    "lr_power": "lr_scheduler_power",
    "max_grad_norm": "clip_grad_norm",
    "weight_decay": "adam_weight_decay",
    "loss": "loss_type",
    "huber_delta": "huber_c",
    "weighting": "debiased_estimation_loss loss_weight_fn",
    "snr_gamma": "min_snr_gamma",
    "offset_noise": "noise_offset offset_noise_weight",
    "input_perturbation": "ip_noise_gamma perturbation_noise_weight",
    "timestep_range": "min_timestep max_timestep",
    "prediction_type": "v_parameterization",
    "ema_decay": "use_ema",
    "remat": "gradient_checkpointing",
    "mixed_precision": "prior_generation_precision",
    "cache": "cache_latents cache_latents_to_disk",
    "crop": "center_crop random_crop",
    "horizontal_flip": "random_flip flip_aug",
    "masks": "masked_loss alpha_mask masked_training",
    "buckets": "enable_bucket aspect_ratio_bucketing",
    "bucket_min_side": "min_bucket_reso",
    "bucket_max_side": "max_bucket_reso",
    "bucket_step": "bucket_reso_steps",
    "shuffle_tags": "shuffle_caption",
    "tag_separator": "caption_separator",
    "caption_dropout": "caption_dropout_rate proportion_empty_prompts",
    "save_every_steps": "save_every_n_steps",
    "checkpoint_every_steps": "checkpointing_steps",
    "keep_checkpoints": "checkpoints_total_limit rolling_backup_count",
    "resume": "resume_from_checkpoint continue_last_backup",
    "preview_prompts": "validation_prompt validation_prompts sample_prompts",
    "preview_every_steps": "sample_every_n_steps",
}


def our_spelling(theirs: str, known: Collection[str]) -> str:
    """Returns which of the known flags `theirs` is, `""` for none."""
    name = theirs.lstrip("-").replace("-", "_")
    dashes = "--" if theirs.startswith("-") else ""
    for ours, others in OURS.items():
        if name in others.split() and f"{dashes}{ours}" in known:
            return f"`{dashes}{ours}`"
    return ""
