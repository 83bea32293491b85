"""What the runs of `crash.py` read: photos, a TFDS dataset, a small model.

And the run that the command cannot start: one on an iterable of Python's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NUM_PHOTOS = 7


def photo(count: int, number: int) -> np.ndarray:
    """Returns the pixels of one of `count` photos, square or wider."""
    generator = np.random.default_rng([count, number])
    width = 64 if number % 2 else 96
    return generator.integers(0, 256, (64, width, 3), np.uint8)


def caption(number: int) -> str:
    return f"a dog of number {number}"


def write_photos(directory: Path) -> None:
    """Writes photos with captions, and others to validate with."""
    for name, count in (("photos", NUM_PHOTOS), ("held_out", 2)):
        (directory / name).mkdir()
        for number in range(count):
            path = directory / name / f"{number}.png"
            Image.fromarray(photo(count, number)).save(path)
            path.with_suffix(".txt").write_text(caption(number))


def write_tfds(directory: Path) -> None:
    """Writes the photos as the dataset `tfds:photos`, with both splits."""
    import tensorflow_datasets as tfds

    class Photos(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "text": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._of(NUM_PHOTOS), "test": self._of(2)}

        def _generate_examples(self):
            raise NotImplementedError

        def _of(self, count):
            for number in range(count):
                image = photo(count, number)
                yield number, {"image": image, "text": caption(number)}

    tfds.disable_progress_bar()
    Photos(data_dir=directory / "tfds").download_and_prepare()


def write_model(directory: Path) -> None:
    """Writes a small model of random weights. Starts TensorFlow."""
    import keras

    from keras_sdft import formats
    from keras_sdft import models

    keras.utils.set_random_seed(0)
    tiny = models.PRESETS["tiny"].spec
    spec = models.StableDiffusionSpec.from_dict(
        {
            **tiny.to_dict(),
            "name": "crash",
            "diffusion_model": {
                **tiny.to_dict()["diffusion_model"],
                "widths": (16, 24),
                "blocks": 1,
                "num_heads": (2, 2),
                "groups": 4,
            },
        }
    )
    model = models.StableDiffusion(
        64, 64, spec=spec, base="tiny", random_weights=True
    )
    formats.save(model, directory / "model", "keras_cv")


def fit_iterable(run: Path) -> int:
    """Trains two epochs on pairs in Python, from the newest checkpoint on.

    An epoch is four steps: of seven photos, in batches of two.

    Returns:
        Integer, the exit code.
    """
    import keras_sdft
    from keras_sdft import callbacks
    from keras_sdft import data
    from keras_sdft import training

    pairs = [(photo(NUM_PHOTOS, n), caption(n)) for n in range(NUM_PHOTOS)]
    sd = keras_sdft.StableDiffusion.from_preset("model", 64, 64)
    trainer = keras_sdft.Trainer(sd, ema_decay=0.9, seed=3)
    trainer.compile("adamw")
    start = (0, 0)
    if any(run.glob("checkpoints/step_*/checkpoint.json")):
        position = trainer.restore_checkpoint(run / "checkpoints")
        start = (position.epoch, position.batch)
    interruption = callbacks.Interruption("Interrupted.")
    checkpoint = callbacks.Checkpoint(
        run / "checkpoints", every_steps=2, interruption=interruption
    )
    history = callbacks.HistoryFile(run / "history.csv")
    options = {"resolution": 64, "batch_size": 2, "seed": 3}
    dataset = data.load(pairs, sd.tokenizer, start=start, **options)
    held_out = [(photo(2, n), caption(n)) for n in range(2)]
    with interruption:
        try:
            trainer.fit(
                dataset,
                epochs=2,
                validation_data=data.load(held_out, sd.tokenizer, **options),
                callbacks=[history, checkpoint],
                verbose=2,
            )
        except training.Interrupted as error:
            return 128 + error.signal
    trainer.export(run / "weights", overwrite=True)
    return 0
