"""Writes the trained model where the library looks for it.

`python -m scripts.pretrain_tiny.package --output keras_sdft/models/tiny`:
weights in half precision with their checksums, vocabulary, words, curves and
the model card. Run `evaluate.py` and `benchmarks.learning` first. Must not know
how training went, only its logs.
"""

import argparse
import json
import pathlib
import shutil
from typing import Any

from keras_sdft.models import packaged
from keras_sdft.models import words as words_
from scripts.pretrain_tiny import checkpoints
from scripts.pretrain_tiny import curves
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import evaluate
from scripts.pretrain_tiny import icons
from scripts.pretrain_tiny import model as model_
from scripts.pretrain_tiny import networks
from scripts.pretrain_tiny import text_to_image
from scripts.pretrain_tiny import words

RUNS = pathlib.Path("build/pretrain")
CARD = "MODEL_CARD.md"
LIMIT_MIB = 36.0
GRIDS = (*evaluate.GRIDS, "reconstructions")

TEMPLATE = """# The embedded model

A small latent diffusion model of icons, 128x128 pixels, trained from scratch
by `scripts/pretrain_tiny` for demonstrations and tests. Apache-2.0. It
generates in {num_steps} steps with a guidance of {guidance_scale:g} unless \
told otherwise.

## Parts

| part | parameters | bytes |
|---|---|---|
{parts}

## Data

{data}

The scripts placed, turned and recoloured the drawings, made styles of them
(`scripts/pretrain_tiny/styles.py`) and wrote the captions. The diffusion model
saw no image of `fluent-emoji-high-contrast`, which is the demo's ink style, nor
one of eight of the pairs of thing and style, and of thing and colour.

## Words

It knows {num_words} words; `keras-sdft inspect tiny` lists them.

- **Styles**, as in "a cat in outline style": {styles}. Without one it generates
  its default look.
- **Colours**: {colours}.
- **Things** ({num_things}): {things}.

## Training

{training}
{remark}
![loss, and loss of pairs never seen, by step of the last
stage](curves.svg)

{measures}

`thing_t`, `style_t`: denoising error with a caption of another thing, or of
another style, over that with the right one, at timestep t.

## Measured

| | |
|---|---|
{results}

`psnr_*`: dB, of things that the autoencoder was not trained on. `pairs_*`,
`colours_*`: denoising error on things and styles, or colours, never seen
together, by quarter of the schedule.

Of generated images, one seed, by two classifiers that were trained on real
images alone (`python -m benchmarks.learning`, {judged_with}):

| | |
|---|---|
{judged}

`pairs`, `composed`: prompts of things and styles, or colours, never seen
together; `top1`, `top5`: the right thing is the classifier's first, or among
its first five, of all; `distinct`: mean distance of 16 seeds of a prompt, over
that of the drawings of one thing. The classifiers are right on {style:.1%} of
real images for the style and {subject:.1%} for the thing.

{grids}

## Limits

It generates the things it was trained on, somewhat blurred: small eyes,
letters and thin lines are lost. It composes no scenes. Sizes other than
128x128 repeat or stretch things. Words outside its vocabulary are split into
bytes and have little effect. It is meant for learning and testing only.
"""


def card(sd: Any, directory: pathlib.Path, options: Any) -> str:
    """The model card's text."""
    path = options.evaluation / "evaluation.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    known = words_.read(directory / words_.FILE)
    judged = json.loads(options.learning.read_text(encoding="utf-8"))
    versions = judged["versions"] | {"date": judged["date"]}
    return TEMPLATE.format(
        **sd.spec.sampling(),
        parts="\n".join(
            f"| {part} | {network.count_params():,} "
            f"| {packaged.file_of(directory, part).stat().st_size:,} |"
            for part, network in model_.parts(sd).items()
        ),
        data="\n".join(
            f"- npm `@iconify-json/{name}` {icon_set.version}, "
            f"{icon_set.licence}"
            for name, icon_set in icons.SETS.items()
        ),
        num_words=len(
            {w for g in known.values() for p in g for w in p.split()}
        ),
        styles=", ".join(known["styles"]),
        colours=", ".join(known["colours"]),
        num_things=len(known["things"]),
        things=", ".join(known["things"]),
        training=training_table(options.runs),
        remark=f"\n{options.remark}\n" if options.remark else "",
        measures=_table(options.runs / text_to_image.LAST / "measures.csv"),
        results=_values(results),
        judged=_values(judged["base"]),
        judged_with="{date}, TensorFlow {tensorflow}, Keras {keras}".format(
            **versions
        ),
        **{name: notes["real"] for name, notes in judged["judges"].items()},
        grids="\n".join(f"![{name}]({name}.png)" for name in GRIDS),
    )


def training_table(runs: pathlib.Path) -> str:
    """Steps of each stage, and of the autoencoder."""
    rows = ["| | steps |", "|---|---|"]
    weights = runs / "autoencoder" / "weights.npz"
    if weights.is_file():
        step = checkpoints.read_notes(weights)["step"]
        rows.append(f"| image encoder and decoder | {step:,} |")
    for stage in text_to_image.STAGES:
        path = runs / stage.name / "model" / packaged.CHECKSUMS
        step = json.loads(path.read_text(encoding="utf-8"))["step"]
        shown = f"{stage.names or 'all'} things"
        if stage.more_of:
            shown += f", {stage.more_of} of them more often"
        styles = "no styles" if stage.plain else "all styles"
        rows.append(
            f"| text encoder and U-Net, {shown}, {styles}, batches of "
            f"{stage.batch_size} | {step:,} |"
        )
    return "\n".join(rows)


def _values(results):
    return "\n".join(
        f"| {key} | {value:.4g} |" for key, value in results.items()
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
    parser.add_argument("--runs", type=pathlib.Path, default=RUNS)
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument(
        "--evaluation", type=pathlib.Path, default=evaluate.DIRECTORY
    )
    parser.add_argument(
        "--learning", type=pathlib.Path, default="build/learning/learning.json"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--remark", help="what the card says of the training")
    options = parser.parse_args(arguments)
    last, output = options.runs / text_to_image.LAST, options.output
    start = last / "model"
    sd = model_.load(start)
    notes = {"spec": networks.tiny_spec().to_dict()}
    model_.write(
        output, model_.parts(sd), start / model_.MERGES, "float16", notes
    )
    words.write(dataset.read_rows("train", options.data), output / words_.FILE)
    log = curves.read(last / "history.csv")
    (output / "curves.svg").write_text(curves.draw(log, ("loss", "val_loss")))
    for name in GRIDS:
        shutil.copyfile(
            options.evaluation / f"{name}.png", output / f"{name}.png"
        )
    (output / CARD).write_text(card(sd, output, options), encoding="utf-8")
    files = list(output.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{size:.1f} MiB of weights in {output}")
    if size > LIMIT_MIB:
        raise SystemExit(f"That is more than the {LIMIT_MIB} MiB allowed.")


if __name__ == "__main__":
    main()
