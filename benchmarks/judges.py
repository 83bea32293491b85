"""Trains the two judges of generated images, on real ones alone.

    .venv/bin/python -m benchmarks.judges

The style judge tells the default look, the styles of the pretraining and ink
apart; the subject judge names the thing, in any style. Both are asked about
images that they did not learn from, as they are and as the autoencoder gives
them back; 97 % right is demanded. Needs `build/tiny` (`python -m
scripts.pretrain_tiny.pictures`).
"""

import argparse
import json
import pathlib
import zlib

import numpy as np

from benchmarks import _classifiers
from benchmarks import _tiny_images
from scripts.pretrain_tiny import dataset

DIRECTORY = pathlib.Path("build/judges")
WANTED = 0.97
JUDGES = ("style", "subject")
#: Images of each look that the style judge learns from.
OF_A_LOOK = 1200


def is_asked(row):
    """Whether an image is kept to ask the judges about.

    Another view of things and styles that they know: the table of known pairs,
    and the second view of one thing of five in ink.
    """
    if row["table"] == "known":
        return True
    one_in_five = zlib.crc32(row["name"].encode()) % 5 == 0
    second = row["file_name"].endswith("-2.png")
    return row["table"] == "ink" and second and one_in_five


def read_rows(root):
    """The rows of all tables, with their table."""
    return [
        {**row, "table": table}
        for table in ("train", "known", "pairs", "colours", "ink")
        for row in dataset.read_rows(table, root)
    ]


def few_of_each(rows, count):
    """At most so many rows of each look."""
    looks = sorted({row["look"] for row in rows})
    return [
        row
        for look in looks
        for row in dataset.some([r for r in rows if r["look"] == look], count)
    ]


def accuracy(classifier, sd, rows, root, key):
    """Share of images that are named rightly, by look and in all.

    Args:
        classifier: A `_classifiers.Classifier`.
        sd: A `keras_sdft.StableDiffusion`, for its autoencoder.
        rows: List of rows.
        root: Path of the data set.
        key: `"look"` or `"thing"`.

    Returns:
        Dictionary of shares: `real`, `decoded`, and those of each look.
    """
    images = dataset.read_images(rows, root)
    names, looks = ([row[k] for row in rows] for k in (key, "look"))
    right = classifier.rank(images, names) < 1
    again = _tiny_images.through_autoencoder(sd, images)
    decoded = classifier.rank(again, names) < 1
    result = {"real": float(right.mean()), "decoded": float(decoded.mean())}
    for look in sorted(set(looks)):
        of_it = np.array([look == other for other in looks])
        result[look] = float(right[of_it].mean())
    return result


def train_style(sd, rows, root, epochs):
    """The style judge, and how often it is right."""
    taught = [row for row in rows if not is_asked(row)]
    taught = few_of_each(taught, OF_A_LOOK)
    images = dataset.read_images(taught, root)
    # Generated images have passed the decoder too.
    both = np.concatenate(
        [images, _tiny_images.through_autoencoder(sd, images)]
    )
    looks = [row["look"] for row in taught] * 2
    judge = _classifiers.Classifier(looks)
    # Some of them differ in colour alone.
    judge.fit(both, looks, epochs, _classifiers.Damage(grey=0.0))
    asked = [row for row in rows if is_asked(row)]
    return judge, accuracy(judge, sd, asked, root, "look")


def train_subject(sd, rows, root, epochs):
    """The subject judge, and how often it is right."""
    taught = [row for row in rows if not is_asked(row)]
    things = [row["thing"] for row in taught]
    judge = _classifiers.Classifier(things)
    judge.fit(dataset.read_images(taught, root), things, epochs)
    asked = [row for row in rows if is_asked(row)]
    return judge, accuracy(judge, sd, asked, root, "thing")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument("--output", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument(
        "--model", help="whose autoencoder is used", default="tiny"
    )
    parser.add_argument("--style_epochs", type=int, default=16)
    parser.add_argument("--subject_epochs", type=int, default=45)
    parser.add_argument("--judges", nargs="+", default=JUDGES, choices=JUDGES)
    options = parser.parse_args(arguments)
    sd = _tiny_images.load(options.model)
    rows = read_rows(options.data)
    for name, train, epochs in (
        ("style", train_style, options.style_epochs),
        ("subject", train_subject, options.subject_epochs),
    ):
        if name not in options.judges:
            continue
        judge, notes = train(sd, rows, options.data, epochs)
        judge.save(options.output / name, notes)
        print(f"{name}: {json.dumps(notes, indent=1)}", flush=True)
        if notes["real"] < WANTED:
            print(f"{name} is right less often than {WANTED:.0%}.")


if __name__ == "__main__":
    main()
