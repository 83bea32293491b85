"""The peer's side of `parity.py`: torch, diffusers, transformers.

Run by `parity.py` with `.venv-peers/bin/python`, one command a process, so
that neither framework is in memory while the other computes.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL
from diffusers import DDIMScheduler
from diffusers import PNDMScheduler
from diffusers import StableDiffusionPipeline
from diffusers import UNet2DConditionModel
from diffusers.training_utils import compute_snr
from safetensors.torch import save_file
from transformers import CLIPTextConfig
from transformers import CLIPTextModel
from transformers import CLIPTokenizer

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
PARTS = ("text_encoder", "unet", "vae")


def build(config):
    """Random networks, biases and norms perturbed."""
    torch.manual_seed(config["seed"])
    networks = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
        "unet": UNet2DConditionModel(**config["unet"]),
        "vae": AutoencoderKL(**config["vae"]),
    }
    generator = torch.Generator().manual_seed(config["seed"] + 1)
    for network in networks.values():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += 0.1 * noise
        if config.get("half"):
            # Exact in float16, so that small files lose nothing.
            for parameter in network.parameters():
                parameter.data = parameter.data.half().float()
        network.eval()
    return networks


def make(folder, config):
    """Writes a random pipeline; `folder/tokenizer` is there already."""
    networks = build(config)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    pipeline = StableDiffusionPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler(
            **SCHEDULE,
            skip_prk_steps=True,
            prediction_type=config["prediction_type"],
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    kept = {
        path.name: path.read_bytes()
        for path in (folder / "tokenizer").iterdir()
    }
    if config.get("half"):
        pipeline = pipeline.to(torch.float16)
    pipeline.save_pretrained(folder)
    for name, content in kept.items():
        # transformers 5 leaves vocab.json and merges.txt out.
        (folder / "tokenizer" / name).write_bytes(content)


def load(folder, report=None, **options):
    """Loads a pipeline; notes keys that were missing or unexpected."""
    networks = {}
    classes = (CLIPTextModel, UNet2DConditionModel, AutoencoderKL)
    for name, cls in zip(PARTS, classes, strict=True):
        networks[name], info = cls.from_pretrained(
            folder / name, output_loading_info=True, **options
        )
        if report is not None:
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
            report[name] = {kind: len(info[kind]) for kind in kinds}
    return StableDiffusionPipeline.from_pretrained(
        folder,
        **networks,
        safety_checker=None,
        requires_safety_checker=False,
    )


def run(pipeline, inputs):
    """Every network's output, channels last."""
    image = _first(inputs["image"])
    latents = _first(inputs["latents"])
    vae = pipeline.vae
    with torch.no_grad():
        context = pipeline.text_encoder(torch.tensor(inputs["ids"]).long())[0]
        moments = vae.encode(image).latent_dist.parameters
        prediction = pipeline.unet(
            latents,
            torch.tensor(inputs["timesteps"]).long(),
            encoder_hidden_states=torch.tensor(inputs["context"]),
        ).sample
        decoded = vae.decode(latents[:1] / vae.config.scaling_factor).sample
    return {
        "text encoder": context.numpy(),
        "image encoder": _last(moments),
        "diffusion model": _last(prediction),
        "decoder": _last(decoded),
    }


def generate(pipeline, inputs, steps):
    """DDIM latents, and the image in [0, 1], from given noise."""
    pipeline.scheduler = DDIMScheduler(
        **SCHEDULE,
        clip_sample=False,
        timestep_spacing="leading",
        prediction_type=pipeline.scheduler.config.prediction_type,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = _first(inputs["noise"])
    latents = pipeline(
        str(inputs["prompt"]),
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=7.5,
        height=8 * noise.shape[2],
        width=8 * noise.shape[3],
        output_type="latent",
    ).images
    with torch.no_grad():
        image = pipeline.vae.decode(
            latents / pipeline.vae.config.scaling_factor
        ).sample
    image = (image / 2 + 0.5).clamp(0, 1)
    return {"generated_latents": _last(latents), "image": _last(image)}


def train(folder, inputs, out, prediction_type, gamma, steps):
    """Loss and gradients of the published recipe; then steps of AdamW.

    Writes `losses.json`, `gradients.safetensors` of the first loss, and, if
    there are steps, `trained.safetensors`.
    """
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").train()
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction_type)

    def loss_of(index):
        latents, noise, context = (
            torch.tensor(inputs[name][index])
            for name in ("train_latents", "train_noise", "train_context")
        )
        latents, noise = (x.permute(0, 3, 1, 2) for x in (latents, noise))
        timesteps = torch.tensor(inputs["train_timesteps"][index]).long()
        noised = scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents, noise, timesteps)
        prediction = unet(noised, timesteps, context).sample
        loss = torch.nn.functional.mse_loss(
            prediction, target, reduction="none"
        ).mean(dim=(1, 2, 3))
        if gamma:
            snr = compute_snr(scheduler, timesteps)
            weights = torch.clamp(snr, max=gamma) / (
                snr if prediction_type == "epsilon" else snr + 1
            )
            loss = loss * weights
        return loss.mean()

    loss = loss_of(0)
    loss.backward()
    gradients = {n: p.grad.contiguous() for n, p in unet.named_parameters()}
    save_file(gradients, out / "gradients.safetensors")
    losses = [loss.item()]
    if steps:
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=1e-4, weight_decay=1e-2, eps=1e-8
        )
        for index in range(steps):
            optimizer.zero_grad()
            loss = loss_of(index)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        weights = {n: p.data.contiguous() for n, p in unet.named_parameters()}
        save_file(weights, out / "trained.safetensors")
    (out / "losses.json").write_text(json.dumps(losses))


def _first(array):
    return torch.tensor(array).permute(0, 3, 1, 2).contiguous()


def _last(tensor):
    return tensor.permute(0, 2, 3, 1).contiguous().numpy()


def report_of(report):
    """How many keys were missing, unexpected or of another shape."""
    return sum(sum(kinds.values()) for kinds in report.values())


def outputs(arguments, inputs):
    """Every network's output, of a folder or of a single file."""
    report = {}
    if arguments.file is None:
        pipeline = load(arguments.folder, report).to(torch.float32)
    else:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(arguments.file),
            config=str(arguments.folder),
            local_files_only=True,
            safety_checker=None,
        )
    results = run(pipeline, inputs)
    results["ids"] = pipeline.tokenizer(
        str(inputs["prompt"]),
        padding="max_length",
        max_length=77,
        truncation=True,
    ).input_ids
    results["problems"] = report_of(report)
    return results


def print_peak():
    """The last line: this process's peak memory in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            print(line.split()[1])


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "command", choices=("make", "run", "generate", "train", "versions")
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--prediction_type", default="epsilon")
    parser.add_argument("--gamma", type=float, default=0.0)
    return parser.parse_args()


def main():
    arguments = parse()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    inputs = np.load(arguments.inputs) if arguments.inputs else {}
    if arguments.command == "versions":
        versions = {
            module.__name__: module.__version__
            for module in (torch, diffusers, transformers)
        }
        print(json.dumps(versions))
        return
    if arguments.command == "make":
        make(arguments.folder, json.loads(arguments.config.read_text()))
    elif arguments.command == "train":
        train(
            arguments.folder,
            inputs,
            arguments.out,
            arguments.prediction_type,
            arguments.gamma,
            arguments.steps,
        )
    elif arguments.command == "generate":
        pipeline = load(arguments.folder).to(torch.float32)
        results = generate(pipeline, inputs, arguments.steps)
        np.savez(arguments.out, **results)
    else:
        np.savez(arguments.out, **outputs(arguments, inputs))
    print_peak()


if __name__ == "__main__":
    main()
