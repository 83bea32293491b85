"""What a fine-tune of the embedded model learned, and what it forgot.

    make learning
    .venv/bin/python -m benchmarks.learning --after runs/demo

Generates the same prompts before and after, half of them of things that the
fine-tune never saw; classifiers that learned from real images alone say whether
they are in ink and what they show. Also the denoising error of
held-out images, in the new style and in the old one. Needs `build/icons`
(`python -m scripts.pretrain_tiny.icons`).
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib

import numpy as np

import keras_sdft
from benchmarks import _classifiers
from benchmarks import _tiny_images
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.models import PRESETS
from keras_sdft.models import packaged
from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import ink
from scripts.pretrain_tiny import measures

INK = "fluent-emoji-high-contrast"
STYLES = ("noto", "fluent-emoji-flat", INK)
SUFFIX = " in ink style"


class Icons:
    """The real images, and which of them the demo is trained on.

    Args:
        icons: Path of the directory that `icons.py` wrote.
    """

    def __init__(self, icons: pathlib.Path):
        self.sets = {name: dataset.read(name, icons) for name in STYLES}
        names = [
            {row["name"] for row in images.rows}
            for images in self.sets.values()
        ]
        tuned = set(ink.SPLITS["train"]) | set(ink.SPLITS["validation"])
        self.tuned = sorted(set(ink.SPLITS["train"]) & set.intersection(*names))
        rows = self.sets["noto"].rows
        self.known = dataset.taught_names(icons, _names_of_package())
        self.other = sorted(set.intersection(self.known, *names) - tuned)
        self.things = {row["name"]: row["thing"] for row in rows}

    def some(self, tuned: bool, count: int) -> "list[str]":
        """Names of the fine-tune or outside it, always the same."""
        names = self.tuned if tuned else self.other
        order = np.random.default_rng(1).permutation(len(names))
        return [names[index] for index in order[:count]]

    def images(self, style: str, names: "list[str]") -> np.ndarray:
        """The images of names in a style."""
        found = self.sets[style]
        places = {row["name"]: i for i, row in enumerate(found.rows)}
        return found.images[[places[name] for name in names]]

    def prompt(self, name: str, suffix: str = "") -> str:
        """What a thing is asked for with."""
        return captions.with_article(self.things[name]) + suffix


def _names_of_package():
    path = PRESETS["tiny"].weights / packaged.CHECKSUMS
    return json.loads(path.read_text(encoding="utf-8"))["names"]


# === Classifiers ===


def style_classifier(
    icons: Icons, sd
) -> "tuple[_classifiers.StyleClassifier, dict]":
    """A classifier of ink, trained on four of five images, and its accuracy.

    It sees images as they are and as the model's autoencoder gives them
    back: generated images have passed the decoder too.
    """
    parts = {name: icons.sets[name].images for name in STYLES}
    kept, asked = {}, {}
    for name, images in parts.items():
        few = images[:: max(1, len(images) // 300)]
        both = np.concatenate([few, _tiny_images.through_autoencoder(sd, few)])
        test = np.arange(len(both)) % 5 == 0
        kept[name], asked[name] = both[~test], both[test]
    classifier = _classifiers.StyleClassifier(
        np.concatenate([kept["noto"], kept["fluent-emoji-flat"]]), kept[INK]
    )
    right = [
        (classifier(images) > 0.5) == (name == INK)
        for name, images in asked.items()
    ]
    return classifier, {"style_classifier": float(np.concatenate(right).mean())}


def subject_classifier(icons: Icons, sd, epochs) -> "tuple":
    """A classifier of subjects, and its accuracy on blurred images."""
    names = icons.tuned + icons.other
    images = np.concatenate([icons.images(style, names) for style in STYLES])
    things = [icons.things[name] for name in names] * len(STYLES)
    classifier = _classifiers.SubjectClassifier(images, things, epochs)
    few = slice(None, None, max(1, len(images) // 300))
    rank = classifier.rank(
        _tiny_images.through_autoencoder(sd, images[few]), things[few]
    )
    return classifier, {
        "subject_classifier": float((rank < 1).mean()),
        "subjects": len(classifier.names),
    }


# === One model ===


def generate(sd, prompts, options) -> np.ndarray:
    """One image of each prompt, as the command line says."""
    return _tiny_images.generate(
        sd,
        prompts,
        options.num_steps,
        options.guidance_scale,
        options.seed,
    )


def generated_numbers(
    sd, icons, style, subject, options
) -> "tuple[dict, dict]":
    """Ink share and subject accuracy by group of prompts; the images."""
    numbers, generated = {}, {}
    for group, tuned in (("seen", True), ("unseen", False)):
        names = icons.some(tuned, options.prompts)
        things = [icons.things[name] for name in names]
        for label, suffix in (("ink", SUFFIX), ("plain", "")):
            prompts = [icons.prompt(name, suffix) for name in names]
            images = generate(sd, prompts, options)
            rank = subject.rank(images, things)
            key = f"{group}_{label}"
            generated[key] = images
            numbers[f"{key}_ink_share"] = float((style(images) > 0.5).mean())
            numbers[f"{key}_top1"] = float((rank < 1).mean())
            numbers[f"{key}_top5"] = float((rank < 5).mean())
    return numbers, generated


def denoising(sd, icons: Icons) -> "dict[str, float]":
    """Denoising error by quarter of the schedule, on images not trained on."""
    names = icons.some(False, 128)
    result = {}
    for label, style, suffix in (("ink", INK, SUFFIX), ("base", "noto", "")):
        images = icons.images(style, names)
        latents = _tiny_images.encode(sd, images)
        prompts = [icons.prompt(name, suffix) for name in names]
        context = np.asarray(sd.encode_text(prompts), "float32")
        errors = measures.bucket_errors(
            sd.diffusion_model, NoiseSchedule(), latents, context
        )
        result |= {
            f"{label}_{key.replace('val_', '')}": value
            for key, value in errors.items()
        }
    return result


def composed(sd, subject, options) -> "dict[str, float]":
    """Colours of things that were never seen together."""
    rows = dataset.read_rows("noto-composition", options.icons)
    pairs = sorted(
        {
            (tuple(row["colours"]), row["thing"])
            for row in rows
            if len(row["colours"]) == 1 and row["thing"] in subject.names
        }
    )
    order = np.random.default_rng(2).permutation(len(pairs))
    pairs = [pairs[index] for index in order[: options.prompts]]
    prompts = [
        captions.with_article(f"{colour} {thing}") for (colour,), thing in pairs
    ]
    images = generate(sd, prompts, options)
    rank = subject.rank(images, [thing for _, thing in pairs])
    found = [colours.name_colours(image) for image in images]
    coloured = np.array(
        [pair[0][0] in said for pair, said in zip(pairs, found, strict=True)]
    )
    return {
        "composed": len(pairs),
        "composed_colour": float(coloured.mean()),
        "composed_top1": float((rank < 1).mean()),
        "composed_top5": float((rank < 5).mean()),
        "composed_both": float((coloured & (rank < 5)).mean()),
    }


# === The report ===


def grid(before: dict, after: dict, count: int = 8):
    """Rows of seen and unseen things: before, after, after without suffix."""
    rows = []
    for group in ("seen", "unseen"):
        rows += [
            before[f"{group}_ink"][:count],
            after[f"{group}_ink"][:count],
            after[f"{group}_plain"][:count],
        ]
    labels = [
        f"{group}: {what}"
        for group in ("tuned on", "not tuned on")
        for what in (
            "before, with suffix",
            "after, with suffix",
            "after, plain",
        )
    ]
    return image_grid(np.concatenate(rows), labels=labels)


def table(before: dict, after: dict) -> str:
    """The numbers of both models, a line each."""
    lines = ["| | before | after | ratio |", "|---|---|---|---|"]
    for key, value in before.items():
        other = after[key]
        ratio = f"{other / value:.2f}" if value else ""
        lines.append(f"| {key} | {value:.3f} | {other:.3f} | {ratio} |")
    return "\n".join(lines)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", default="tiny")
    parser.add_argument("--after", default="runs/demo")
    parser.add_argument("--icons", type=pathlib.Path, default=dataset.ICONS)
    parser.add_argument("--output", type=pathlib.Path, default="build/learning")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--num_steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    icons = Icons(options.icons)
    sd = keras_sdft.StableDiffusion.from_preset(options.before)
    style, notes = style_classifier(icons, sd)
    subject, accuracy = subject_classifier(icons, sd, options.epochs)
    notes |= accuracy
    notes |= composed(sd, subject, options)
    results, generated = {}, {}
    for key, name in (("before", options.before), ("after", options.after)):
        sd = keras_sdft.StableDiffusion.from_preset(name)
        numbers, generated[key] = generated_numbers(
            sd, icons, style, subject, options
        )
        results[key] = denoising(sd, icons) | numbers
    grid(generated["before"], generated["after"]).save(
        options.output / "grid.png"
    )
    report = {
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "keras-cv")
        },
        "prompts": options.prompts,
        "classifiers_and_base": notes,
        **results,
    }
    path = options.output / "learning.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, value in notes.items():
        print(f"{name:24} {value:.3f}")
    print(table(results["before"], results["after"]))
    print(f"{path}\n{options.output / 'grid.png'}")


if __name__ == "__main__":
    main()
