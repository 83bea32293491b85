"""Writes the trained model where the library looks for it.

`python -m scripts.pretrain_tiny.package --output keras_sdft/models/tiny`:
weights in half precision with their checksums, curves and the model card.
Run `evaluate.py` first. Must not know how training went, only its logs.
"""

import argparse
import json
import pathlib
import shutil
from typing import Any

from keras_sdft.models import packaged
from scripts.pretrain_tiny import checkpoints
from scripts.pretrain_tiny import curves
from scripts.pretrain_tiny import evaluate
from scripts.pretrain_tiny import icons
from scripts.pretrain_tiny import networks

CARD = "MODEL_CARD.md"
LIMIT_MIB = 36.0
GRIDS = ("things", "coloured", "styled", "unknown", "reconstructions")

TEMPLATE = """# The embedded model

A small latent diffusion model of icons, 128x128 pixels, trained from scratch
by `scripts/pretrain_tiny` for demonstrations and tests. Apache-2.0.

## Parts

| part | parameters | bytes |
|---|---|---|
{parts}

## Data

{data}

The scripts changed the hue of some images and wrote the captions.
Images of the `*-composition` folders and the ink style were not trained
on by the diffusion model.

## Training

| | steps | minutes |
|---|---|---|
| image encoder and decoder | {autoencoder_steps} | {autoencoder_minutes} |
| text encoder and U-Net | {steps} (batch {batch_size}) | {minutes} |

The text encoder and the U-Net were trained on {examples} images with
{captions} first captions; the autoencoder on all of them.
{remark}
![loss by quarter of the schedule](curves.svg)

{measures}

## Measured

| | |
|---|---|
{results}

`psnr_*`: dB, of images whose names were not trained on. `ratio_t`: denoising
error with a wrong caption over that with the right one, at timestep t.
`val_*`: denoising error on colours and things never seen together, by quarter
of the schedule. `top1`, `top5`: whether the nearest of
`gallery` real images to a generated one is the one asked for.

{grids}

## Limits

It generates the things it was trained on, somewhat blurred: small eyes,
letters and thin lines are lost. It can neither count nor compose scenes.
Sizes other than 128x128 repeat or stretch things. Words outside its
vocabulary are split into bytes and have little effect. It is meant for
learning and testing only.
"""


def card(model: Any, directory: pathlib.Path, options: Any) -> str:
    """The model card's text."""
    notes = {
        name: checkpoints.read_notes(path / "weights.npz")
        for name, path in (
            ("autoencoder", options.autoencoder),
            ("text_to_image", options.text_to_image),
        )
    }
    path = options.evaluation / "evaluation.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    return TEMPLATE.format(
        parts="\n".join(
            f"| {part} | {network.count_params():,} "
            f"| {packaged.file_of(directory, part).stat().st_size:,} |"
            for part, network in evaluate.parts(model).items()
        ),
        data="\n".join(
            f"- npm `@iconify-json/{name}` {icon_set.version}, "
            f"{icon_set.licence}"
            for name, icon_set in icons.SETS.items()
        ),
        autoencoder_steps=notes["autoencoder"]["step"],
        autoencoder_minutes=round(notes["autoencoder"]["minutes"]),
        steps=notes["text_to_image"]["step"],
        minutes=round(notes["text_to_image"]["minutes"]),
        batch_size=notes["text_to_image"]["batch_size"],
        examples=notes["text_to_image"]["examples"],
        captions=notes["text_to_image"]["captions"],
        remark=f"\n{options.remark}\n" if options.remark else "",
        measures=_table(options.text_to_image / "measures.csv"),
        results="\n".join(
            f"| {name} | {value:.4g} |" for name, value in results.items()
        ),
        grids="\n".join(f"![{name}]({name}.png)" for name in GRIDS),
    )


def _table(path, rows=12):
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    # The last of them, and others spread evenly before it.
    every = max(1, -(-len(lines) // rows))
    kept = lines[::-1][::every][::-1]
    head = [header, ",".join("---" for _ in header.split(","))]
    return "\n".join(f"| {line.replace(',', ' | ')} |" for line in head + kept)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    evaluate.add_model_arguments(parser)
    parser.add_argument(
        "--evaluation", type=pathlib.Path, default=evaluate.DIRECTORY
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--names", type=int, help="as it was trained with")
    parser.add_argument("--remark", help="what the card says of the training")
    options = parser.parse_args(arguments)
    options.package = None
    model, output = evaluate.load(options), options.output
    notes = {
        "spec": networks.tiny_spec(options.blocks).to_dict(),
        # Of `dataset.taught_names`; null for all of them.
        "names": options.names,
    }
    packaged.write(output, evaluate.parts(model), notes=notes)
    log = curves.read(options.text_to_image / "log.csv")
    names = tuple(name for name in log if name.startswith("mse_"))
    (output / "curves.svg").write_text(curves.draw(log, names))
    for name in GRIDS:
        shutil.copyfile(
            options.evaluation / f"{name}.png", output / f"{name}.png"
        )
    (output / CARD).write_text(card(model, output, options), encoding="utf-8")
    files = list(output.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{size:.1f} MiB of weights in {output}")
    if size > LIMIT_MIB:
        raise SystemExit(f"That is more than the {LIMIT_MIB} MiB allowed.")


if __name__ == "__main__":
    main()
