"""What the embedded model knows, what a fine-tune learned, and what it forgot.

    make learning
    .venv/bin/python -m benchmarks.learning --after runs/demo runs/ink_lora
    .venv/bin/python -m benchmarks.learning --before build/pretrain/last/model

Two judges that learned from real images alone (`benchmarks/judges.py`) say in
which style generated images are and what they show. Of the model as it is:
pairs of thing and style, and of thing and colour, that it never saw; all
names; how much images of one prompt differ. Before and after a fine-tune, for
things that it was trained on and others: the share in ink, and of the right
thing; and the denoising error of held-out images. Prompts and seeds are fixed.
Needs `build/tiny` and `build/judges`.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib

import numpy as np
from PIL import Image

from benchmarks import _classifiers
from benchmarks import _tiny_images
from benchmarks import judges
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.diffusion import NoiseSchedule
from scripts.pretrain_tiny import captions
from scripts.pretrain_tiny import colours
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import ink
from scripts.pretrain_tiny import measures

SUFFIX = " in ink style"
#: What the distance between images of one prompt is measured with.
SEVERAL = ("cat", "dog", "house", "tree", "car", "fish")
SEEDS = 16


class Things:
    """The things that the fine-tune is trained on, and others.

    Args:
        root: Path of the data set.
    """

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.rows = {
            table: dataset.read_rows(table, root)
            for table in ("train", "pairs", "colours", "ink")
        }
        self.things = {
            row["name"]: row["thing"]
            for row in self.rows["ink"]
            if row["file_name"].endswith("-1.png")
        }
        tuned = set(ink.SPLITS["train"]) | set(ink.SPLITS["validation"])
        self.tuned = sorted(set(ink.SPLITS["train"]) & set(self.things))
        self.other = sorted(set(self.things) - tuned)

    def some(self, tuned: bool, count: int) -> "list[str]":
        """Names of the fine-tune or outside it, always the same."""
        return _some(self.tuned if tuned else self.other, count)

    def images(self, table: str, look: str, names: "list[str]") -> np.ndarray:
        """The first image of each name in a look."""
        places: dict[str, dict] = {}
        for row in self.rows[table]:
            if row["look"] == look:
                places.setdefault(row["name"], row)
        rows = [places[name] for name in names]
        return dataset.read_images(rows, self.root)

    def prompt(self, name: str, suffix: str = "") -> str:
        """What a thing is asked for with."""
        return captions.with_article(self.things[name]) + suffix


def _some(items, count):
    order = np.random.default_rng(1).permutation(len(items))
    return [items[index] for index in order[:count]]


def generate(sd, prompts, options) -> np.ndarray:
    """One image of each prompt, as the command line says."""
    return _tiny_images.generate(
        sd,
        prompts,
        options.num_steps,
        options.guidance_scale,
        options.seed,
    )


# === The model as it is ===


def pairs(sd, things, style, subject, options) -> "tuple[dict, np.ndarray]":
    """Styles and things that were never seen together; the images."""
    rows = [
        row
        for row in _some(things.rows["pairs"], options.pairs)
        if row["thing"] in subject.names
    ]
    images = generate(sd, [row["text"][0] for row in rows], options)
    looks = np.array([row["look"] for row in rows])
    in_style = np.array(style(images)) == looks
    right = subject.rank(images, [row["thing"] for row in rows]) < 1
    # What the judge says of the real image of each pair.
    real = dataset.read_images(rows, things.root)
    known = subject.rank(real, [row["thing"] for row in rows]) < 1
    result = {
        "pairs": len(rows),
        "pairs_style": float(in_style.mean()),
        "pairs_top1": float(right.mean()),
        "pairs_top1_of_real_images": float(known.mean()),
    }
    for look in sorted(set(looks)):
        result[f"pairs_style_{look}"] = float(in_style[looks == look].mean())
        result[f"pairs_top1_{look}"] = float(right[looks == look].mean())
    return result, images


def retrieval(sd, things, style, subject, options) -> "dict[str, float]":
    """Every thing, or some, by its name alone."""
    names = sorted({row["thing"] for row in things.rows["train"]})
    names = _some(names, options.names)
    prompts = [captions.with_article(name) for name in names]
    images = generate(sd, prompts, options)
    rank = subject.rank(images, names)
    plain = np.array(style(images)) == "default"
    return {
        "names": len(names),
        "names_top1": float((rank < 1).mean()),
        "names_top5": float((rank < 5).mean()),
        "names_default_look": float(plain.mean()),
    }


def spread(images: np.ndarray) -> float:
    """Mean distance of pairs of images, of pixels at a quarter of the size.

    Args:
        images: uint8 array `(N, H, W, 3)`.

    Returns:
        Float, the root of the mean squared difference, mean of all pairs.
    """
    small = np.stack(
        [
            np.asarray(Image.fromarray(image).reduce(4), "float64")
            for image in images
        ]
    )
    differences = [
        np.sqrt(np.mean((small[i] - small[j]) ** 2))
        for i in range(len(small))
        for j in range(i)
    ]
    return float(np.mean(differences))


def distinctness(sd, things, options) -> "tuple[dict, np.ndarray]":
    """How much seeds differ, against real images of one thing."""
    ratios, rows = [], []
    for thing in SEVERAL:
        prompt = captions.with_article(thing)
        real = [
            row
            for row in things.rows["train"]
            if row["look"] == "default" and row["text"][0] == prompt
        ]
        images = generate(sd, [prompt] * SEEDS, options)
        rows.append(images[:8])
        wanted = spread(dataset.read_images(real, things.root))
        ratios.append(spread(images) / wanted)
    return {"distinct": float(np.mean(ratios))}, np.concatenate(rows)


def composed(sd, things, subject, options) -> "dict[str, float]":
    """Colours of things that were never seen together."""
    pairs = sorted(
        {
            (row["colour"], row["thing"])
            for row in things.rows["colours"]
            if row["thing"] in subject.names
        }
    )
    pairs = _some(pairs, options.prompts)
    prompts = [
        captions.with_article(f"{colour} {thing}") for colour, thing in pairs
    ]
    images = generate(sd, prompts, options)
    rank = subject.rank(images, [thing for _, thing in pairs])
    found = [colours.name_colours(image) for image in images]
    coloured = np.array(
        [pair[0] in said for pair, said in zip(pairs, found, strict=True)]
    )
    return {
        "composed": len(pairs),
        "composed_colour": float(coloured.mean()),
        "composed_top1": float((rank < 1).mean()),
        "composed_top5": float((rank < 5).mean()),
        "composed_both": float((coloured & (rank < 5)).mean()),
    }


# === Before and after a fine-tune ===


def generated_numbers(
    sd, things, style, subject, options
) -> "tuple[dict, dict]":
    """Ink share and subject accuracy by group of prompts; the images."""
    numbers, generated = {}, {}
    for group, tuned in (("seen", True), ("unseen", False)):
        names = things.some(tuned, options.prompts)
        nouns = [things.things[name] for name in names]
        for label, suffix in (("ink", SUFFIX), ("plain", "")):
            prompts = [things.prompt(name, suffix) for name in names]
            images = generate(sd, prompts, options)
            rank = subject.rank(images, nouns)
            key = f"{group}_{label}"
            generated[key] = images
            is_ink = np.array(style(images)) == "ink"
            numbers[f"{key}_ink_share"] = float(is_ink.mean())
            numbers[f"{key}_top1"] = float((rank < 1).mean())
            numbers[f"{key}_top5"] = float((rank < 5).mean())
    return numbers, generated


def denoising(sd, things: Things) -> "dict[str, float]":
    """Denoising error by quarter of the schedule, on images not trained on."""
    names = things.some(False, 128)
    result = {}
    for label, table, look, suffix in (
        ("ink", "ink", "ink", SUFFIX),
        ("base", "train", "default", ""),
    ):
        images = things.images(table, look, names)
        latents = _tiny_images.encode(sd, images)
        prompts = [things.prompt(name, suffix) for name in names]
        context = np.asarray(sd.encode_text(prompts), "float32")
        errors = measures.bucket_errors(
            sd.diffusion_model, NoiseSchedule(), latents, context
        )
        result |= {
            f"{label}_{key.replace('val_', '')}": value
            for key, value in errors.items()
        }
    return result


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


def table(results: "dict[str, dict]") -> str:
    """Returns a Markdown table of models by name, the first as reference.

    Args:
        results: Dictionary of numbers by model. Each but the first has a
            column for its ratio to the first.

    Returns:
        String, a line for each number.
    """
    (first, before), *others = results.items()
    head = ["", first] + [n for name, _ in others for n in (name, "ratio")]
    lines = [head, ["---"] * len(head)]
    for key, value in before.items():
        cells = [key, f"{value:.3f}"]
        for _, after in others:
            ratio = f"{after[key] / value:.2f}" if value else ""
            cells += [f"{after[key]:.3f}", ratio]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", default="tiny")
    parser.add_argument(
        "--after", nargs="*", default=[], help="runs that began with it"
    )
    parser.add_argument(
        "--skip_base", action="store_true", help="measure only the runs"
    )
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument("--judges", type=pathlib.Path, default=judges.DIRECTORY)
    parser.add_argument("--output", type=pathlib.Path, default="build/learning")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--names", type=int, default=320)
    parser.add_argument("--num_steps", type=int)
    parser.add_argument("--guidance_scale", type=float)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    things = Things(options.data)
    style, style_notes = _classifiers.load(options.judges / "style")
    subject, subject_notes = _classifiers.load(options.judges / "subject")
    report = {
        "date": datetime.date.today().isoformat(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("tensorflow", "keras", "keras-cv")
        },
        "judges": {"style": style_notes, "subject": subject_notes},
    }
    if not options.skip_base:
        report["base"] = base_numbers(things, style, subject, options)
        for name, value in report["base"].items():
            print(f"{name:28} {value:.3f}")
    if options.after:
        report["runs"] = compare(things, style, subject, options)
        print(table(report["runs"]))
    path = options.output / "learning.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(path)


def base_numbers(things, style, subject, options) -> "dict[str, float]":
    """The figures of the model before a fine-tune; writes two grids."""
    sd = _tiny_images.load(options.before)
    result, images = pairs(sd, things, style, subject, options)
    image_grid(images[:64], columns=8).save(options.output / "pairs.png")
    different, images = distinctness(sd, things, options)
    image_grid(images, columns=8).save(options.output / "seeds.png")
    result |= different
    result |= retrieval(sd, things, style, subject, options)
    return result | composed(sd, things, subject, options)


def compare(things, style, subject, options) -> "dict[str, dict]":
    """Returns the figures of the model and of each run; writes grids."""
    results, before = {}, None
    for name in (options.before, *options.after):
        sd = _tiny_images.load(name)
        numbers, generated = generated_numbers(
            sd, things, style, subject, options
        )
        results[name] = denoising(sd, things) | numbers
        if before is None:
            before = generated
        else:
            path = options.output / f"grid_{pathlib.Path(name).name}.png"
            grid(before, generated).save(path)
    return results


if __name__ == "__main__":
    main()
