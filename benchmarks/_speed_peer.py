"""The peer's side of `speed.py`: torch, diffusers, transformers, datasets.

The recipe of diffusers' text-to-image script, written here from what is
documented of it: `imagefolder`, a transform of each example when it is read,
`DataLoader`, the autoencoder and CLIP in the loop, AdamW, the global norm
clipped at 1. The transforms are the calls to Pillow and torch that
torchvision's make: its wheels on the registry need another build of torch
than this one for CPUs.

`job["variant"]`: "eager" is what the script's users run; "tuned" adds
channels-last memory, fused AdamW and workers that read; "compiled" adds
`torch.compile` to that.

One job a process; see `_speed_child.py`.
"""

import logging
import os
import random
import shutil
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers import DDIMScheduler
from diffusers import DDPMScheduler
from diffusers import StableDiffusionPipeline
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.optimization import get_scheduler
from PIL import Image
from transformers import CLIPTextConfig
from transformers import CLIPTextModel
from transformers import CLIPTokenizer

from benchmarks import _speed_child
from benchmarks._speed_sizes import ADAMW
from benchmarks._speed_sizes import BETAS
from benchmarks._speed_sizes import CLIP_NORM
from benchmarks._speed_sizes import GUIDANCE
from benchmarks._speed_sizes import LENGTH
from benchmarks._speed_sizes import LORA_LEARNING_RATE
from benchmarks._speed_sizes import PROMPT
from benchmarks._speed_sizes import SAMPLING_STEPS
from benchmarks._speed_sizes import SCHEDULE
from benchmarks._speed_sizes import SIZES
from benchmarks._speed_sizes import ready_batch
from benchmarks._speed_sizes import text_config
from benchmarks._speed_sizes import unet_config
from benchmarks._speed_sizes import vae_config


def train(job):
    """Steps of the recipe on batches that are encoded already."""
    clock = _speed_child.Clock(job)
    training = Training(job)
    batch = {
        name: torch.tensor(value).to(training.device)
        for name, value in ready_batch(job).items()
    }
    moments = batch["moments"].permute(0, 3, 1, 2).contiguous()
    posterior = DiagonalGaussianDistribution(moments)
    while True:
        training.step(posterior.sample(), batch["context"])
        if not clock.tick():
            break
    peak = None
    if training.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return clock.result(batch=job["batch"], device_peak=peak)


def recipe(job):
    """Image files and captions to updated weights."""
    clock = _speed_child.Clock(job)
    size = SIZES[job["size"]]
    training = Training(job)
    vae = AutoencoderKL(**vae_config(size)).requires_grad_(False)
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(size)))
    text_encoder.requires_grad_(False)
    loader = make_loader(job)
    while True:
        for batch in loader:
            latents = vae.encode(batch["pixel_values"]).latent_dist.sample()
            context = text_encoder(batch["input_ids"], return_dict=False)[0]
            training.step(latents, context)
            if not clock.tick():
                return clock.result(batch=job["batch"])


def read(job):
    """Batches from files, without a network."""
    clock = _speed_child.Clock(job)
    loader = make_loader(job)
    while True:
        for _ in loader:
            if not clock.tick():
                return clock.result(batch=job["batch"])


def start(job):
    """The first batch of a large set of files.

    Tuned, the table is there that `datasets` kept of an earlier start.
    """
    import datasets  # noqa: F401

    clock = _speed_child.Clock(job)
    if job["variant"] == "eager":
        shutil.rmtree(tables(), ignore_errors=True)
    empty, imported = _speed_child.memory_gb(), clock.now()
    next(iter(make_loader(job)))
    above = (_speed_child.memory_gb() - empty) * 1e9 / 2**30
    return {"first": clock.now(), "imported": imported, "above_gib": above}


def generate(job):
    """Images from text, by the pipeline."""
    clock = _speed_child.Clock(job)
    pipeline = make_pipeline(job)
    options = {
        "guidance_scale": GUIDANCE,
        "height": job["pixels"],
        "width": job["pixels"],
    }

    def call(steps):
        generator = torch.Generator().manual_seed(0)
        pipeline(
            PROMPT, num_inference_steps=steps, generator=generator, **options
        )

    call(2)
    while clock.tick():
        call(SAMPLING_STEPS)
    return clock.result()


# === Training ===


class Training:
    """The network, its optimizer, and one step of the recipe.

    `job["dtype"]` "mixed_bfloat16" is what the script makes of it: weights
    that learn in float32, frozen ones in bfloat16, and automatic casts.
    """

    def __init__(self, job):
        tuned = job["variant"] != "eager"
        self.device = job.get("device", "cpu")
        self.is_half = job.get("dtype") == "mixed_bfloat16"
        self.unet = UNet2DConditionModel(**unet_config(SIZES[job["size"]]))
        self.unet.train()
        frozen = self.is_half and "lora" in job
        self.unet.to(self.device, torch.bfloat16 if frozen else None)
        if "lora" in job:
            self.add_lora(job["lora"])
        self.format = torch.contiguous_format
        if job.get("remat"):
            self.unet.enable_gradient_checkpointing()
        if tuned:
            self.format = torch.channels_last
            self.unet.to(memory_format=self.format)
        self.weights = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights,
            lr=LORA_LEARNING_RATE if "lora" in job else ADAMW["learning_rate"],
            betas=BETAS,
            weight_decay=ADAMW["weight_decay"],
            eps=ADAMW["epsilon"],
            fused=True if tuned else None,
        )
        self.rates = get_scheduler("constant", self.optimizer)
        self.noises = DDPMScheduler(**SCHEDULE)
        self.scale = vae_config(SIZES[job["size"]])["scaling_factor"]
        if job["variant"] == "compiled":
            self.unet = torch.compile(self.unet)

    def add_lora(self, rank):
        """As diffusers' text-to-image script for LoRA."""
        from peft import LoraConfig

        self.unet.requires_grad_(False)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        self.unet.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=rank,
                init_lora_weights="gaussian",
                target_modules=targets,
            )
        )
        for weight in self.unet.parameters():
            if weight.requires_grad:
                weight.data = weight.float()

    def step(self, latents, context):
        latents = (latents * self.scale).contiguous(memory_format=self.format)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(
            0,
            SCHEDULE["num_train_timesteps"],
            (len(latents),),
            device=latents.device,
        ).long()
        noised = self.noises.add_noise(latents, noise, timesteps)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.is_half):
            prediction = self.unet(
                noised, timesteps, context, return_dict=False
            )[0]
        loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad()
        # The script shows the loss of every step.
        return loss.detach().item()


# === Files ===


def tables():
    """Where `datasets` keeps its tables."""
    return Path(os.environ["HF_DATASETS_CACHE"])


def make_loader(job):
    from datasets import load_dataset

    files = {"train": str(Path(job["folder"]) / "**")}
    dataset = load_dataset(
        "imagefolder", data_files=files, cache_dir=str(tables())
    )["train"]
    tokenizer = CLIPTokenizer.from_pretrained(job["tokenizer"])

    def preprocess(examples):
        examples["pixel_values"] = [
            pixels(image.convert("RGB"), job["pixels"])
            for image in examples["image"]
        ]
        examples["input_ids"] = tokenizer(
            list(examples["text"]),
            max_length=LENGTH,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return examples

    # Workers would hide what a start needs from this process's memory.
    tuned = job["variant"] != "eager" and job["command"] != "start"
    return torch.utils.data.DataLoader(
        dataset.with_transform(preprocess),
        shuffle=True,
        collate_fn=collate,
        batch_size=job["batch"],
        num_workers=os.cpu_count() if tuned else 0,
        persistent_workers=tuned,
    )


def pixels(image, side):
    """The short side resized, a random crop, [-1, 1]."""
    width, height = image.size
    short = min(width, height)
    width, height = side * width // short, side * height // short
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (
        random.randint(0, width - side),
        random.randint(0, height - side),
    )
    image = image.crop((left, top, left + side, top + side))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    tensor = tensor.to(torch.get_default_dtype()).div(255)
    return tensor.sub_(0.5).div_(0.5)


def collate(examples):
    images = torch.stack([example["pixel_values"] for example in examples])
    ids = torch.stack([example["input_ids"] for example in examples])
    images = images.to(memory_format=torch.contiguous_format).float()
    return {"pixel_values": images, "input_ids": ids}


# === Generation ===


def make_pipeline(job):
    """The pipeline, around networks with fresh weights."""
    size = SIZES[job["size"]]
    unet = UNet2DConditionModel(**unet_config(size)).eval()
    vae = AutoencoderKL(**vae_config(size)).eval()
    text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(size))).eval()
    if job["variant"] != "eager":
        unet.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)
    if job["variant"] == "compiled":
        unet = torch.compile(unet)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(job["tokenizer"]),
        scheduler=DDIMScheduler(
            **SCHEDULE,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


COMMANDS = {
    "train": train,
    "recipe": recipe,
    "read": read,
    "start": start,
    "generate": generate,
}
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "datasets",
    "numpy",
)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    diffusers.logging.set_verbosity_error()
    _speed_child.main(COMMANDS, PACKAGES)
