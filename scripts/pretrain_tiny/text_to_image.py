"""Trains the embedded model's text encoder and U-Net together.

`python -m scripts.pretrain_tiny` calls it, a stage at a time. The library does
all of it: `data.load` with a cache, `Trainer`, its checkpoints and callbacks.
What is not in the library is here: weights that begin with nothing
(`networks.py`), the weighting of timesteps, and timesteps that are spread over
each batch, which `Trainer.noise_sampler` may be replaced for. Must not know
pixels.
"""

import csv
import dataclasses
import json
import pathlib
import signal
import time
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_sdft
from keras_sdft import callbacks
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import stateless_seed
from keras_sdft.encoding import Cache
from keras_sdft.training import Noise
from keras_sdft.training import Objective
from keras_sdft.training import checkpoint_files
from keras_sdft.training.noise_sampler import NoiseSampler
from scripts.pretrain_tiny import dataset
from scripts.pretrain_tiny import gradients
from scripts.pretrain_tiny import measures
from scripts.pretrain_tiny import model
from scripts.pretrain_tiny import prompts

GAMMA = 5.0
CAPTION_DROPOUT = 0.1
CHECKPOINT_MINUTES = 5.0
#: Steps of one call of the device. A GPU under JAX computes them while Python
#: prepares the rows of others.
STEPS_PER_EXECUTION = {"jax": 8, "tensorflow": 1}
#: How often a thing of `Stage.more_of` is shown for each time of another.
MORE_TIMES = 4
#: Epochs between two sheets of pictures.
PREVIEW_EPOCHS = 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training, from a model in a directory to another one.

    Attributes:
        name: String, of its directory and its table.
        epochs: Integer.
        learning_rate: Float, of the flat part.
        flat: Float in [0, 1), share of the steps before the rate falls.
        names: Integer, at most so many things, those of the demo first;
            `None` for all.
        plain: Boolean, whether only pictures are kept whose caption says
            nothing but the thing: no style, colour or background.
        more_of: Integer, so many things, those of the demo first, are shown
            `MORE_TIMES` as often as the others.
        batch_size: Integer.
        ema_decay: Float.
        measure_epochs: Integer, epochs between two validations.
    """

    name: str
    epochs: int
    learning_rate: float
    flat: float
    names: "int | None" = None
    plain: bool = False
    more_of: int = 0
    batch_size: int = 32
    ema_decay: float = 0.999
    measure_epochs: int = 1


#: Few pictures first: captions have an effect once each was seen often.
STAGES = (
    Stage("words", 60, 6e-4, 1.0, names=64, plain=True, measure_epochs=5),
    Stage("more_words", 30, 6e-4, 1.0, names=160, plain=True, measure_epochs=3),
    Stage("few", 14, 6e-4, 1.0, names=160, measure_epochs=2),
    Stage("all", 60, 6e-4, 1.0, batch_size=64),
    Stage("last", 11, 6e-4, 0.1),
    Stage("familiar", 6, 6e-4, 0.2, more_of=160, measure_epochs=2),
)
#: What the model is when all is trained.
LAST = STAGES[-1].name


# === The objective ===


def weighting(snr: np.ndarray, prediction_type: str) -> np.ndarray:
    """`min(SNR + 1, 5) / SNR`: more weight where the caption decides.

    At low signal it is that of v-prediction; min-SNR of the noise would
    weigh those steps least, in which all there is to go by is the words.

    Args:
        snr: Float array `(T,)`.
        prediction_type: `"epsilon"`.

    Returns:
        Float32 array `(T,)`.
    """
    if prediction_type != "epsilon":
        raise ValueError(
            "This weighting is for the prediction of noise. Received: "
            f"prediction_type={prediction_type!r}."
        )
    snr = np.asarray(snr, "float64")
    return (np.minimum(snr + 1.0, GAMMA) / snr).astype("float32")


def spread_timesteps(batch_size: Any, seed: Any, num_timesteps: int) -> Any:
    """One timestep for each example, one from each of as many equal ranges.

    Args:
        batch_size: Integer `B`.
        seed: A `StatelessSeed`.
        num_timesteps: Integer `T`.

    Returns:
        Int32 tensor `(B,)` in `[0, T)`, rising.
    """
    place = keras.random.uniform((batch_size,), dtype="float32", seed=seed)
    ranges = ops.cast(ops.arange(batch_size), "float32")
    share = (ranges + place) / ops.cast(batch_size, "float32")
    timesteps = ops.cast(ops.floor(share * num_timesteps), "int32")
    return ops.clip(timesteps, 0, num_timesteps - 1)


class SpreadNoise(NoiseSampler):
    """Samples as the library does, and timesteps by `spread_timesteps`."""

    def __call__(self, shape, step):
        seed = stateless_seed(self.seed, "timesteps", step)
        timesteps = spread_timesteps(shape[0], seed, self.num_train_timesteps)
        return {**super().__call__(shape, step), "timesteps": timesteps}


def make_trainer(sd: Any, stage: Stage, num_steps: int, seed: int = 0) -> Any:
    """A compiled `Trainer` of both networks.

    Args:
        sd: A `keras_sdft.StableDiffusion`.
        stage: `Stage`.
        num_steps: Integer, optimizer steps of the stage.
        seed: Integer >= 0.

    Returns:
        A `keras_sdft.Trainer`.
    """
    trainer = keras_sdft.Trainer(
        sd,
        train=["diffusion_model", "text_encoder"],
        objective=Objective(weighting=weighting),
        ema_decay=stage.ema_decay,
        validation_timesteps=2,
        seed=seed,
    )
    total = trainer.noise_sampler.num_train_timesteps
    trainer.noise_sampler = SpreadNoise(Noise(), seed, total)
    schedule = gradients.FlatThenCosine(
        stage.learning_rate, num_steps, flat=stage.flat
    )
    trainer.compile(
        gradients.make_optimizer(schedule),
        steps_per_execution=STEPS_PER_EXECUTION[keras.backend.backend()],
    )
    return trainer


# === What is measured on the way ===


class Measures(StepCallback):
    """Measures the effect of captions after an epoch, and generates previews.

    Args:
        run: Path of the stage's directory, which gets `measures.csv` and
            `previews/`.
        table: String, name of the stage's table.
        root: Path of the data set.
        every: Integer, epochs between two measures.
        count: Integer, pictures to measure with.
    """

    def __init__(
        self,
        run: pathlib.Path,
        table: str,
        root: pathlib.Path,
        every: int = 1,
        count: int = 96,
    ):
        super().__init__()
        self.run, self.table, self.root = run, table, root
        self.every, self.count = every, count
        self._latents: Any = None

    def on_epoch_end(self, epoch, logs=None) -> None:
        if (epoch + 1) % self.every:
            return
        trainer = self.model
        with trainer.averaged_weights():
            values = self._measure(trainer.stable_diffusion)
            if (epoch + 1) % PREVIEW_EPOCHS == 0:
                self._draw(trainer.stable_diffusion)
        row = {"epoch": epoch + 1, "step": self.step, **values}
        _append(self.run / "measures.csv", row)

    def _measure(self, sd):
        if self._latents is None:
            rows = dataset.read_rows(self.table, self.root)
            kept = {r["file_name"] for r in dataset.some(rows, self.count)}
            found = dataset.read(
                self.table, self.root, lambda row: row["file_name"] in kept
            )
            moments = measures.in_chunks(
                sd.moments_model.predict_on_batch,
                dataset.to_float(found.images),
            )
            scale = sd.spec.autoencoder.latent_scale
            self._latents = np.split(moments, 2, axis=-1)[0] * scale
            self._texts = {
                "right": found.captions,
                "thing": wrong_things(found.rows),
                "style": wrong_styles(found.rows),
            }
        return caption_sensitivity(sd, self._latents, self._texts)

    def _draw(self, sd):
        from keras_sdft.callbacks import image_grid

        folder = self.run / "previews"
        folder.mkdir(parents=True, exist_ok=True)
        texts = list(prompts.PREVIEWS)
        images = sd.text_to_image(texts, seed=0)
        grid = image_grid(images, columns=8)
        grid.save(folder / f"step_{self.step:06d}.png")


def wrong_things(rows: "list[dict]") -> "list[str]":
    """Captions that name the look of each row, and the next one's thing."""
    others = rows[1:] + rows[:1]
    return [
        _caption(o["text"][0], o["look"], row["look"])
        for row, o in zip(rows, others, strict=True)
    ]


def wrong_styles(rows: "list[dict]") -> "list[str]":
    """Captions that name the thing of each row, in another look."""
    looks = sorted({row["look"] for row in rows})
    places = {look: index for index, look in enumerate(looks)}
    return [
        _caption(
            row["text"][0],
            row["look"],
            looks[(places[row["look"]] + 1) % len(looks)],
        )
        for row in rows
    ]


def _caption(text, look, other):
    """A first caption, in another look."""
    plain = text.removesuffix(f" in {look} style")
    return plain if other == "default" else f"{plain} in {other} style"


def caption_sensitivity(
    sd: Any, latents: np.ndarray, texts: "dict[str, list[str]]"
) -> "dict[str, float]":
    """Returns the error with wrong captions over that with right ones.

    Args:
        sd: A `keras_sdft.StableDiffusion`.
        latents: Float32 array `(N, h, w, C)`.
        texts: Dictionary of `"right"` captions and of wrong ones by what is
            wrong.

    Returns:
        Dictionary of the ratio by `"<what>_<timestep>"`.
    """
    schedule, result = NoiseSchedule(), {}
    for timestep in (500, 800):
        at = np.full(len(latents), timestep)
        errors = {
            name: measures.denoising_error(
                sd.diffusion_model,
                schedule,
                latents,
                measures.encode_tokens(sd.text_encoder, sd.tokenizer(captions)),
                at,
            ).mean()
            for name, captions in texts.items()
        }
        for name in texts:
            if name != "right":
                ratio = float(errors[name] / errors["right"])
                result[f"{name}_{timestep}"] = round(ratio, 4)
    return result


def _append(path, row):
    rows = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    # What a checkpoint before it goes on from is measured again.
    rows = [r for r in rows if int(r["step"]) < row["step"]] + [row]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


class TimeLimit(keras.callbacks.Callback):
    """Ends training with a checkpoint, as a signal would, at a time.

    Args:
        interruption: `keras_sdft.callbacks.Interruption`.
        end: Float, of `time.monotonic`.
    """

    def __init__(self, interruption: Any, end: float):
        super().__init__()
        self.interruption, self.end = interruption, end

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if time.monotonic() > self.end and self.interruption.signal is None:
            self.interruption.signal = signal.SIGINT


# === A stage ===


def write_table(stage: Stage, root: pathlib.Path) -> pathlib.Path:
    """Writes the table of the pictures that a stage is shown.

    Args:
        stage: `Stage`.
        root: Path of the data set.

    Returns:
        Path of the table, beside the others.
    """
    from scripts.pretrain_tiny import captions
    from scripts.pretrain_tiny import pictures

    rows = dataset.read_rows("train", root)
    ordered = pictures.demo_first({r["name"] for r in rows})
    names, familiar = set(ordered[: stage.names]), ordered[: stage.more_of]
    rows = [row for row in rows if row["name"] in names]
    for row in rows:
        row["times"] *= MORE_TIMES if row["name"] in familiar else 1
    if stage.plain:
        rows = [
            row
            for row in rows
            if row["text"][0] == captions.with_article(row["thing"])
        ]
    lines = [json.dumps(row) for row in rows]
    path = root / f"train-{stage.name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(
    stage: Stage,
    start: pathlib.Path,
    run: pathlib.Path,
    root: pathlib.Path,
    end: float = float("inf"),
    seed: int = 0,
) -> None:
    """Trains a stage to its end, from its last checkpoint if there is one.

    Args:
        stage: `Stage`.
        start: Path of the model that it begins with, see `model.py`.
        run: Path of the stage's directory. Gets `model/` when all is trained.
        root: Path of the data set.
        end: Float, time of `time.monotonic` to stop at.
        seed: Integer >= 0.

    Raises:
        keras_sdft.training.Interrupted: If a signal or the time ended it.
            The same call goes on.
    """
    sd = model.load(start)
    table = write_table(stage, root)
    found = checkpoint_files.find_newest(run / "checkpoints")
    step, epoch, batch = found[1]["position"] if found else (0, 0, 0)
    load = {"batch_size": stage.batch_size, "resolution": 128, "seed": seed}
    training = keras_sdft.data.load(
        str(table),
        sd.tokenizer,
        cache=_cache(run.parent / f"cache-{stage.name}", sd),
        repeats="times",
        caption_dropout=CAPTION_DROPOUT,
        start=(epoch, batch),
        **load,
    )
    validation = keras_sdft.data.load(
        str(root / "pairs.jsonl"),
        sd.tokenizer,
        cache=_cache(run.parent / "cache-pairs", sd),
        shuffle=False,
        **load,
    )
    per_epoch = int(training.cardinality())
    trainer = make_trainer(sd, stage, stage.epochs * per_epoch, seed)
    if found:
        trainer.restore_checkpoint(run / "checkpoints")
    print(
        f"{stage.name}: step {step:,} of {stage.epochs * per_epoch:,}, "
        f"{per_epoch} in an epoch",
        flush=True,
    )
    with callbacks.Interruption("Writing a checkpoint.") as interruption:
        trainer.fit(
            training,
            epochs=stage.epochs,
            validation_data=validation,
            validation_freq=stage.measure_epochs,
            callbacks=_callbacks(stage, run, table, interruption, end),
            verbose=0,
        )
    with trainer.averaged_weights():
        notes = {"step": int(trainer.step.numpy()), "stage": stage.name}
        model.write(
            run / "model", model.parts(sd), start / model.MERGES, notes=notes
        )


def _cache(directory, sd):
    # Captions are not in it: the text encoder learns.
    return Cache(directory, sd, contexts=False, overwrite=True)


def _callbacks(stage, run, table, interruption, end):
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    return [
        callbacks.StopOnNaN(),
        callbacks.Throughput(stage.batch_size),
        callbacks.HistoryFile(run / "history.csv"),
        Measures(run, table.stem, table.parent, stage.measure_epochs),
        TimeLimit(interruption, end),
        callbacks.Checkpoint(
            run / "checkpoints",
            every_minutes=CHECKPOINT_MINUTES,
            interruption=interruption,
        ),
    ]
