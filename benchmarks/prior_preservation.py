"""Does a subject sit, and does its class survive? With and without a prior.

    .venv/bin/python -m benchmarks.prior_preservation
    .venv/bin/python -m benchmarks.prior_preservation --lora_rank 16 \
        --steps 200 --learning_rate 1e-3

Teaches the embedded model one cat from six views, once alone and once
beside class images that it draws itself, with `keras-sdft dreambooth`; with
`--lora_rank` by a LoRA, and once more beside what its frozen base predicts.
Then, for the model before and after each: the denoising error on views of
the subject that were held out, on class images from other seeds, and the
images.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

import keras_sdft
from benchmarks import _tiny_images
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.diffusion import NoiseSchedule
from scripts.pretrain_tiny import measures

SUBJECT = pathlib.Path("examples/data/sks_cat")
INSTANCE_PROMPT = "a sks cat"
CLASS_PROMPT = "a cat"
#: Things that have nothing to do with the subject.
OTHERS = ("an apple", "a rocket", "a dog", "a house", "a fish", "a tree")
#: Seeds of class images that are never trained on begin here.
HELD_OUT_SEED = 100_000
#: Times that each image is denoised.
ASKED = 16


def runs(options) -> "dict[str, list[str]]":
    """Names of the runs, and flags of each."""
    class_images = [
        f"--class_prompt={CLASS_PROMPT}",
        f"--class_data_dir={options.output / 'class'}",
        f"--num_class_images={options.num_class_images}",
        "--sample_batch_size=16",
    ]
    if options.lora_rank is None:
        # "sks" is new to the text encoder.
        full = [
            "--train_text_encoder",
            f"--text_encoder_learning_rate={options.learning_rate}",
        ]
        return {"without prior": full, "with prior": [*full, *class_images]}
    lora = [
        f"--lora_rank={options.lora_rank}",
        "--lora_targets=linear",
        "--lora_text_encoder",
    ]
    base = [f"--class_prompt={CLASS_PROMPT}", "--prior_preservation=base"]
    return {
        "LoRA without prior": lora,
        "LoRA, class images": [*lora, *class_images],
        "LoRA, frozen base": [*lora, *base],
    }


def train(options, name: str, flags: "list[str]") -> "tuple[pathlib.Path, int]":
    """Runs the command; returns the run's directory and its seconds."""
    run = options.output / name.replace(", ", "_").replace(" ", "_").lower()
    command = [
        sys.executable,
        "-m",
        "keras_sdft",
        "dreambooth",
        "--model=tiny",
        f"--instance_data_dir={SUBJECT / 'instance'}",
        f"--instance_prompt={INSTANCE_PROMPT}",
        f"--output_dir={run}",
        f"--max_train_steps={options.steps}",
        f"--learning_rate={options.learning_rate}",
        "--batch_size=2",
        "--overwrite",
        *flags,
    ]
    print(" ".join(command), flush=True)
    start = time.monotonic()
    subprocess.run(command, check=True)
    return run, round(time.monotonic() - start)


def held_out(sd) -> "dict[str, tuple[np.ndarray, str]]":
    """Pictures that nothing was trained on, and their captions."""
    paths = sorted((SUBJECT / "validation").glob("*.png"))
    views = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    cats = _tiny_images.generate(
        sd,
        [CLASS_PROMPT] * _tiny_images.CHUNK,
        seed=HELD_OUT_SEED,
    )
    groups = {
        "subject": (np.stack(views), INSTANCE_PROMPT),
        "class": (cats, CLASS_PROMPT),
    }
    for number, prompt in enumerate(OTHERS):
        images = _tiny_images.generate(
            sd,
            [prompt] * 4,
            seed=HELD_OUT_SEED + 100 * number,
        )
        groups[prompt] = (images, prompt)
    return groups


def errors(sd, groups) -> "dict[str, float]":
    """Denoising error of each group, over the whole schedule."""
    schedule, result = NoiseSchedule(), {}
    for name, (images, prompt) in groups.items():
        latents = _tiny_images.encode(sd, images)
        latents = np.repeat(latents, ASKED, axis=0)
        context = np.repeat(
            np.asarray(sd.encode_text(prompt), "float32"), len(latents), 0
        )
        place = (np.arange(len(latents)) % ASKED + 0.5) / ASKED
        timesteps = np.floor(place * schedule.num_train_timesteps)
        result[name] = float(
            measures.denoising_error(
                sd.diffusion_model, schedule, latents, context, timesteps
            ).mean()
        )
    others = [result.pop(prompt) for prompt in OTHERS]
    return {**result, "other things": float(np.mean(others))}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, default="build/prior")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--lora_rank", type=int)
    parser.add_argument("--num_class_images", type=int, default=48)
    options = parser.parse_args(arguments)
    os.makedirs(options.output, exist_ok=True)
    models, seconds = {"before": "tiny"}, {}
    for name, flags in runs(options).items():
        models[name], seconds[name] = train(options, name, flags)
    prompts = [INSTANCE_PROMPT] * 3 + [CLASS_PROMPT] * 3 + list(OTHERS[:2])
    groups, results, images = None, {}, []
    for name, source in models.items():
        sd = keras_sdft.StableDiffusion.from_preset(source)
        groups = groups or held_out(sd)
        results[name] = errors(sd, groups)
        images.append(_tiny_images.generate(sd, prompts))
    sheet = image_grid(
        np.concatenate(images), labels=list(models), column_labels=prompts
    )
    sheet.save(options.output / "grid.png")
    report = {
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "keras-cv")
        },
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "lora_rank": options.lora_rank,
        "seconds": seconds,
        "denoising_error": results,
    }
    path = options.output / "prior_preservation.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("| | " + " | ".join(results["before"]) + " |")
    print("|" + "---|" * (1 + len(results["before"])))
    for name, row in results.items():
        cells = " | ".join(f"{value:.4f}" for value in row.values())
        print(f"| {name} | {cells} |")
    print(f"{path}\n{options.output / 'grid.png'}")


if __name__ == "__main__":
    main()
