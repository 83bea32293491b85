"""Makes the embedded model from nothing, and goes on where it stopped.

`python -m scripts.pretrain_tiny`: data, vocabulary, autoencoder, then text to
image in stages. Each stage writes checkpoints; what is done is not done
again. `--minutes` ends it in order, and so do INT and TERM; the same call goes
on. Then come `evaluate.py` and `package.py`.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

from keras_sdft.training import Interrupted
from scripts.pretrain_tiny import autoencoder
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import model
from scripts.pretrain_tiny import pictures
from scripts.pretrain_tiny import text_to_image
from scripts.pretrain_tiny import vocabulary

RUNS = pathlib.Path("build/pretrain")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, default=dataset.ROOT)
    parser.add_argument("--runs", type=pathlib.Path, default=RUNS)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--autoencoder_steps",
        type=int,
        default=autoencoder.STEPS,
        help="0 keeps the autoencoder that ships with the package",
    )
    parser.add_argument("--learning_rate", type=float, help="of all stages")
    parser.add_argument("--epochs", type=int, nargs=len(text_to_image.STAGES))
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    try:
        make(options, end)
    except (Interrupted, KeyboardInterrupt):
        print("Stopped in order. The same command goes on.")
        raise SystemExit(130) from None


def make(options: Any, end: float) -> None:
    """Does what is not done yet.

    Args:
        options: The parsed arguments.
        end: Float, time of `time.monotonic` to stop at.
    """
    runs, seed = options.runs, options.seed
    if not (options.data / "ink.jsonl").is_file():
        pictures.main([f"--output={options.data}", f"--seed={seed}"])
    merges = runs / model.MERGES
    if not merges.is_file():
        vocabulary.main([f"--output={merges}"])
    start = runs / "initial"
    if not model.is_whole(start):
        trained = train_autoencoder(options, end)
        model.write_initial(start, merges, trained, seed)
    for stage in stages(options):
        run = runs / stage.name
        if not model.is_whole(run / "model"):
            text_to_image.train(stage, start, run, options.data, end, seed)
        start = run / "model"
    print(f"All is trained: {start}. Next: evaluate.py, package.py.")


def stages(options: Any) -> "list[text_to_image.Stage]":
    """The stages, with the options' numbers in the place of their own."""
    found = []
    for index, stage in enumerate(text_to_image.STAGES):
        changes: dict[str, Any] = {}
        if options.learning_rate is not None:
            changes["learning_rate"] = options.learning_rate
        if options.epochs is not None:
            changes["epochs"] = options.epochs[index]
        found.append(dataclasses.replace(stage, **changes))
    return found


def train_autoencoder(options: Any, end: float) -> "pathlib.Path | None":
    """Trains the autoencoder to its end.

    Returns:
        Path of its run; `None` to keep the packaged one.

    Raises:
        KeyboardInterrupt: If the time ended it.
    """
    if not options.autoencoder_steps:
        return None
    directory = options.runs / "autoencoder"
    minutes = (end - time.monotonic()) / 60
    done = autoencoder.train(
        [
            f"--data={options.data}",
            f"--directory={directory}",
            f"--steps={options.autoencoder_steps}",
            f"--minutes={minutes}",
            f"--seed={options.seed}",
        ]
    )
    if not done:
        raise KeyboardInterrupt
    return directory


if __name__ == "__main__":
    main()
