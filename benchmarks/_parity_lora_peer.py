"""The peer's side of `parity_lora.py`: torch, diffusers and peft.

Run by it with `.venv-peers/bin/python`, one command a process.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _parity_peer import SCHEDULE
from _parity_peer import _first
from _parity_peer import _last
from _parity_peer import load
from diffusers import DDIMScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

UNET = ["to_q", "to_k", "to_v", "to_out.0"]
LINEAR = [*UNET, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
ALL = [
    *LINEAR,
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.0.conv", "upsamplers.0.conv"),
]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
# Name: targets of the U-Net, of the text encoder, and peft's options.
CASES = {
    "attention": (UNET, TEXT, {"r": 2, "lora_alpha": 2}),
    "alpha": (LINEAR, [*TEXT, "fc1", "fc2"], {"r": 3, "lora_alpha": 1.5}),
    "convolutions": (ALL, [], {"r": 2, "lora_alpha": 1}),
    "dora": (LINEAR, TEXT, {"r": 2, "lora_alpha": 1, "use_dora": True}),
}


TOKEN = "<cat-toy>"
PROMPT = f"a photo of {TOKEN}, a toy"
# Of which ten steps of AdamW are taken.
TRAINED = ("attention", "dora")
LEARNING_RATE = 1e-3


def outputs(pipeline, inputs):
    """The two networks' outputs, the U-Net's channels last."""
    with torch.no_grad():
        ids = torch.tensor(inputs["ids"]).long()
        context = pipeline.text_encoder(ids)[0]
        prediction = pipeline.unet(
            _first(inputs["latents"]),
            torch.tensor(inputs["timesteps"]).long(),
            encoder_hidden_states=torch.tensor(inputs["context"]),
        ).sample
    return {"text": context.numpy(), "unet": _last(prediction)}


def add(network, targets, options, seed):
    torch.manual_seed(seed)
    network.add_adapter(LoraConfig(target_modules=targets, **options))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            size = 0.02 if "magnitude" in name else 0.2
            parameter.data += size * noise


def make(folder, inputs, out, cases):
    """Writes a LoRA for each case, by diffusers, and what it makes of it."""
    for name in cases:
        unet, text, options = CASES[name]
        pipeline = load(folder).to(torch.float32)
        add(pipeline.unet, unet, options, 1)
        if text:
            add(pipeline.text_encoder, text, options, 2)
        pipeline.save_lora_weights(
            out / name,
            unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
            text_encoder_lora_layers=(
                get_peft_model_state_dict(pipeline.text_encoder)
                if text
                else None
            ),
            unet_lora_adapter_metadata=_metadata(options, unet),
            text_encoder_lora_adapter_metadata=(
                _metadata(options, text) if text else None
            ),
        )
        written = out / name / "pytorch_lora_weights.safetensors"
        written.rename(out / f"{name}.safetensors")
        written.parent.rmdir()
        np.savez(out / f"{name}.npz", **outputs(pipeline, inputs))
        save_file(_kohya(pipeline, options), out / f"{name}_kohya.safetensors")
        if name in TRAINED:
            losses = train(pipeline.unet, inputs)
            (out / f"{name}_losses.json").write_text(json.dumps(losses))
            pipeline.save_lora_weights(
                out / name,
                unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
                unet_lora_adapter_metadata=_metadata(options, unet),
            )
            written.rename(out / f"{name}_trained.safetensors")
            written.parent.rmdir()


def train(unet, inputs):
    """Takes steps of AdamW on the adapters alone; returns the losses."""
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type="epsilon")
    learned = [p for p in unet.parameters() if p.requires_grad]
    unet.train()
    optimizer = torch.optim.AdamW(
        learned, lr=LEARNING_RATE, weight_decay=1e-2, eps=1e-8
    )
    losses = []
    for index in range(len(inputs["train_latents"])):
        latents, noise, context = (
            torch.tensor(inputs[f"train_{name}"][index])
            for name in ("latents", "noise", "context")
        )
        latents, noise = (x.permute(0, 3, 1, 2) for x in (latents, noise))
        timesteps = torch.tensor(inputs["train_timesteps"][index]).long()
        noised = scheduler.add_noise(latents, noise, timesteps)
        prediction = unet(noised, timesteps, context).sample
        loss = torch.nn.functional.mse_loss(prediction, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def _metadata(options, targets):
    return {**options, "target_modules": targets}


def _kohya(pipeline, options):
    """The same values in kohya's layout, from the layers themselves."""
    found = {}
    for prefix, network in (
        ("lora_unet", pipeline.unet),
        ("lora_te", pipeline.text_encoder),
    ):
        for name, module in network.named_modules():
            if not getattr(module, "lora_A", None):
                continue
            name = name.removeprefix("text_model.")
            if prefix == "lora_te":
                name = f"text_model.{name}"
            stem = f"{prefix}_{name.replace('.', '_')}"
            down = module.lora_A["default"].weight
            up = module.lora_B["default"].weight
            found[f"{stem}.lora_down.weight"] = down.detach().contiguous()
            found[f"{stem}.lora_up.weight"] = up.detach().contiguous()
            alpha = torch.tensor(float(options["lora_alpha"]))
            found[f"{stem}.alpha"] = alpha
            if module.lora_magnitude_vector:
                vector = module.lora_magnitude_vector["default"].weight
                shape = (-1,) + (1,) * (up.ndim - 1)
                found[f"{stem}.dora_scale"] = vector.detach().reshape(shape)
    return found


def read(folder, inputs, files, out):
    """What diffusers makes of each file; an error's text where it cannot."""
    report = {}
    for file in files:
        pipeline = load(folder).to(torch.float32)
        try:
            pipeline.load_lora_weights(file.parent, weight_name=file.name)
        except Exception as error:
            report[file.stem] = repr(error)
            continue
        report[file.stem] = "read"
        np.savez(out / f"{file.stem}.npz", **outputs(pipeline, inputs))
    (out / "report.json").write_text(json.dumps(report, indent=1))


def embed(folder, files, prompt, out):
    """Token ids, and the text encoder's output, with each embedding."""
    for file in files:
        pipeline = load(folder).to(torch.float32)
        pipeline.load_textual_inversion(str(file), token=TOKEN)
        tokenizer = pipeline.tokenizer
        ids = tokenizer(
            pipeline.maybe_convert_prompt(prompt, tokenizer),
            padding="max_length",
            max_length=77,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            text = pipeline.text_encoder(ids)[0].numpy()
        np.savez(out / f"{file.stem}.npz", ids=ids.numpy(), text=text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("make", "read", "embed"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    options = parser.parse_args()
    inputs = {
        name.removeprefix("input_"): array
        for name, array in np.load(options.inputs).items()
        if name.startswith("input_")
    }
    options.out.mkdir(parents=True, exist_ok=True)
    if options.command == "make":
        make(options.folder, inputs, options.out, options.cases)
    elif options.command == "embed":
        embed(options.folder, options.files, PROMPT, options.out)
    else:
        read(options.folder, inputs, options.files, options.out)


if __name__ == "__main__":
    main()
