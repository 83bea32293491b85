"""Flags as other trainers spell them: diffusers, kohya's scripts, OneTrainer.

Only for the answer to a flag that does not exist here.
"""

from __future__ import annotations

from collections.abc import Collection

# Theirs: ours, without the dashes. Of several the first that the command
# has.
OURS: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "unet_lr": ("learning_rate",),
    "text_encoder_lr": ("text_encoder_learning_rate",),
    "learning_rate_te": ("text_encoder_learning_rate",),
    "pretrained_model_name_or_path": ("model",),
    "base_model_name": ("model",),
    "model_id": ("model",),
    "train_data_dir": ("data", "instance_data_dir"),
    "dataset_name": ("data", "instance_data_dir"),
    "dataset_config": ("data", "instance_data_dir"),
    "reg_data_dir": ("class_data_dir",),
    "train_batch_size": ("batch_size",),
    "max_train_epochs": ("num_train_epochs",),
    "epochs": ("num_train_epochs",),
    "steps": ("max_train_steps", "num_steps"),
    "checkpointing_steps": ("save_every_steps",),
    "save_every_n_steps": ("save_every_steps",),
    "validation_prompt": ("preview_prompts",),
    "validation_prompts": ("preview_prompts",),
    "sample_prompts": ("preview_prompts",),
    "sample_every_n_steps": ("preview_every_steps",),
    "noise_offset": ("offset_noise",),
    "ip_noise_gamma": ("input_perturbation",),
    "min_snr_gamma": ("snr_gamma",),
    "loss_type": ("loss",),
    "optimizer_type": ("optimizer",),
    "gradient_checkpointing": ("remat",),
    "use_ema": ("ema_decay",),
    "adam_weight_decay": ("weight_decay",),
    "random_flip": ("horizontal_flip",),
    "flip_aug": ("horizontal_flip",),
    "random_crop": ("crop",),
    "center_crop": ("crop",),
    "enable_bucket": ("buckets",),
    "min_bucket_reso": ("bucket_min_side",),
    "max_bucket_reso": ("bucket_max_side",),
    "bucket_reso_steps": ("bucket_step",),
    "shuffle_caption": ("shuffle_tags",),
    "caption_separator": ("tag_separator",),
    "caption_dropout_rate": ("caption_dropout",),
    "proportion_empty_prompts": ("caption_dropout",),
    "cache_latents": ("cache",),
    "cache_latents_to_disk": ("cache",),
    "with_prior_preservation": ("class_prompt",),
    "prior_generation_precision": ("mixed_precision",),
    "v_parameterization": ("prediction_type",),
    "negative": ("negative_prompt",),
    "num_inference_steps": ("num_steps",),
    "cfg_scale": ("guidance_scale",),
    "checkpoint_path": ("model",),
    "dump_path": ("output",),
    "output_name": ("output",),
    "logging_dir": ("output_dir",),
}


def our_spelling(theirs: str, known: Collection[str]) -> str:
    """Returns the flag of ours that is meant, or `""` if none is known.

    Args:
        theirs: String, with or without dashes before it.
        known: Strings, the flags that the command has, spelled as `theirs`.
    """
    dashes = "--" if theirs.startswith("-") else ""
    name = theirs.lstrip("-").replace("-", "_")
    for ours in OURS.get(name, ()):
        if f"{dashes}{ours}" in known:
            return f"`{dashes}{ours}`"
    return ""
