"""A run of any kind of training, from its flags to its last line."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras_sdft
from keras_sdft import data
from keras_sdft import distribution
from keras_sdft import models
from keras_sdft import runs
from keras_sdft import training
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options

# What every kind of training has.
TRAINING = (
    models.ModelOptions,
    runs.RunOptions,
    data.ImageOptions,
    data.EpochOptions,
    training.Objective,
    training.Noise,
    training.OptimizerOptions,
    *training.PART_OPTIONS,
    runs.PreviewOptions,
    training.CheckpointOptions,
    distribution.DistributionOptions,
)
# Of these, the flags that are used most.
COMMON = (
    "resolution",
    "batch_size",
    "max_train_steps",
    "learning_rate",
    "lora_rank",
    "preview_prompts",
    "mixed_precision",
    "resume",
    "overwrite",
)


class Source:
    """What a kind of training learns from.

    Attributes:
        inputs: Flags of what is read, what is trained on first, what is
            validated with last.
        made: Flag of what is made beside the run.
        start: Epoch and batch that training begins with.
    """

    inputs: tuple[str, ...]
    made: str

    def __init__(self, options: Options, sd: Any) -> None:
        self.options = options
        self.sd = sd
        self.start = (0, 0)
        self.report = data.Report()
        self.run = options.of(runs.RunOptions)

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        """Checks what needs the model's spec alone, and no run directory."""

    @property
    def prompt(self) -> str:
        """What to try the result with."""
        return "YOUR PROMPT"

    def load(self) -> runs.RunData:
        """Reads what is there, to know how long the run is."""
        raise NotImplementedError

    def prepare(self, loaded: runs.RunData) -> runs.RunData:
        """Makes what is not there yet; returns the data from `start` on."""
        raise NotImplementedError

    def read_training(
        self, load: Callable[..., Any], source: str, **given: Any
    ) -> Any:
        """Returns batches of whole optimizer steps, changed in each epoch."""
        given |= self.options.values_of(data.ImageOptions, data.EpochOptions)
        given["batch_size"] = self.run.images_per_step
        return self._read(load, source, **given)

    def read_validation(self, source: str | None, **given: Any) -> Any:
        """Returns batches of images as they are, `None` without a source."""
        if source is None:
            return None
        size, limit = self.options.batch_size, self.options.max_unreadable
        given |= {"batch_size": size, "max_unreadable": limit}
        found = self._read(data.load, source, shuffle=False, **given)
        self.report.compare_held_out()
        return found

    def _read(self, load: Any, source: str, **given: Any) -> Any:
        given["resolution"] = (self.sd.img_height, self.sd.img_width)
        given |= {"seed": self.options.seed, "report": self.report}
        index, count = distribution.worker()
        if count > 1:
            given["worker"] = (index, count)
        return load(source, self.sd.tokenizer, **given)


def run(command: Command, kind: type[Source], options: Options) -> None:
    """Trains a command's kind of source, exports, and says where things are."""
    inputs = inputs_of(options, kind.inputs)
    made = {kind.made: getattr(options, kind.made)}
    kind.check(options, check_training(options))
    validates = getattr(options, kind.inputs[-1]) is not None
    options.of(training.CheckpointOptions).check_best(validates)
    others = distribution.others(options.strategy)
    if others:
        print(f"Waiting for {', '.join(others)} to begin too", flush=True)
    distribution.use(options.strategy)
    options = resolve_defaults(options)
    saved = resolved(options, inputs, kind.made)
    saved = {n: value for n, value in saved.items() if n in command.flags}
    # Each machine may have its own places of files.
    places = {*inputs, *made, "output_dir"}
    alike = {n: value for n, value in saved.items() if n not in places}
    distribution.check_alike(alike)
    path, name = options.resume or options.output_dir, command.name
    begin = functools.partial(
        runs.RunDirectory, path, name, inputs, options.overwrite, made
    )
    if options.resume is not None:
        begin = functools.partial(runs.RunDirectory.resume, path, name)
    opened = distribution.on_chief(begin)
    if opened is None:
        # What another worker writes is not for this one to close.
        beside = runs.RunDirectory.beside(path)
        opened = contextlib.nullcontext(beside)
    with opened as directory:
        _run(command, options, kind, directory, saved)


def _run(
    command: Command,
    options: Options,
    kind: type[Source],
    run: runs.RunDirectory,
    saved: dict[str, Any],
) -> None:
    checkpoint, content = None, dict[str, Any](position=(0, 0, 0))
    if options.resume is not None:
        checkpoint, content = runs.find_checkpoint(run, saved)
    done, epoch, batch = content["position"]
    sd = load_for_training(options)
    source = kind(options, sd)
    source.start = (epoch, batch)
    data = distribution.together(source.load)
    if done > data.steps:
        raise ValueError(
            f"The run is at step {done:,} already, beyond the {data.steps:,} "
            "that it was to have. Give a larger `--max_train_steps`."
        )
    if done == data.steps and batch != data.steps_per_epoch:
        # All is trained, and the end of the epoch is still to come.
        source.start = (epoch, data.steps_per_epoch)
        data = source.load()
    # Before the trainer, which makes it a model that learns new words.
    words = runs.unknown_words(sd, data.report, options.preview_prompts or ())
    trainer = make_trainer(options, sd, data.steps)
    distribution.together(lambda: runs.check_memory(trainer, data, source.run))
    data = source.prepare(data)
    previews = options.of(runs.PreviewOptions)
    checkpoints = options.of(training.CheckpointOptions)
    callbacks = runs.make_callbacks(
        run, data, source.run, previews, checkpoints
    )
    seen = runs.data_state(data.report)
    if checkpoint is not None:
        runs.check_data(content["about"]["data"], seen)
        trainer.restore_checkpoint(checkpoint)
    prompt = (options.preview_prompts or [source.prompt])[0]
    distribution.check_alike({"the data": seen, "the steps done": done})
    count = previews.count(data.steps)
    # All of them, as it makes variables.
    space = runs.check_space(run, trainer, checkpoints, count)
    if distribution.is_chief():
        again = f"Again: keras-sdft {command.name} --config THIS_FILE"
        run.write_config(saved, f"{again} --output_dir ANOTHER")
        changed = runs.changed_settings(saved, command.defaults_by_flag)
        runs.note_facts(run.path, settings=changed)
        lines = [*_opening(options, kind, trainer, data), space]
        lines += [
            f"the earlier run stays in {earlier} until this one is done"
            for earlier in run.earlier
        ]
        if checkpoint is not None:
            lines.append(f"goes on after step {done:,}")
        elif words:
            lines.append(words)
        print("\n  ".join(lines), flush=True)
    runs.fit(run, trainer, data, callbacks, prompt)


# === From flags to the model and the trainer ===


def inputs_of(options: Options, names: Iterable[str]) -> dict[str, str | None]:
    """Returns what is read, by flag: the model, and `names` of the data."""
    flags = ("model", "vae", *names, "weights_directory")
    inputs = {name: getattr(options, name) for name in flags}
    # A preset's name is no path, whatever lies there.
    if options.model in models.PRESETS:
        del inputs["model"]
    return inputs


def check_training(options: Options) -> dict[str, Any]:
    """Checks groups of options together, and against the model.

    Reads at most the heads of weight files, and returns the model's spec.
    """
    optimizer = options.of(training.OptimizerOptions)
    if options.max_train_steps is not None:
        optimizer.check_steps(options.max_train_steps)
    if optimizer.is_schedule_free and options.ema_decay is not None:
        raise ValueError(
            f"`optimizer={optimizer.optimizer}` keeps an average of the "
            f"weights by itself. Received: ema_decay={options.ema_decay}. "
            "Leave it out."
        )
    spec = models.describe(options.model)["spec"]
    options.of(training.Objective).resolve(
        spec["prediction_type"], spec.get("zero_terminal_snr", False)
    )
    return spec


def resolve_defaults(options: Options) -> Options:
    """Returns the options with the learning rate and decay that are used."""
    parts = [options.of(group) for group in training.PART_OPTIONS]
    rates = [getattr(p, "default_learning_rate", None) for p in parts]
    rates = [rate for rate in rates if rate is not None]
    if rates and "learning_rate" not in options.given:
        options = options.replace(learning_rate=rates[0])
    resolved = options.of(training.OptimizerOptions).resolved
    return options.replace(**dataclasses.asdict(resolved))


def parts_of(
    options: Options, make_optimizer: Callable[[float], Any] = lambda rate: None
) -> list[Any]:
    """Returns what learns, to be looked at if no optimizer is made for it."""
    parts: list[Any] = [training.DiffusionModel()]
    for group in training.PART_OPTIONS:
        parts = options.of(group).apply(parts, make_optimizer)
    return parts


def load_for_training(options: Options) -> Any:
    """Loads the model that is to be trained.

    A model that declares what it predicts is loaded as that, and may be
    trained towards `prediction_type`; for one that does not, it says both.
    """
    silent = models.describe(options.model)["spec"]["prediction_type"] is None
    sd = options.of(models.ModelOptions).load(
        height=options.resolution,
        width=options.resolution,
        prediction_type=options.prediction_type if silent else None,
        remat=options.remat,
    )
    for part in parts_of(options):
        part.add_tokens(sd)
    if distribution.worker()[1] > 1:
        sd.build_parts()
    return sd


def make_trainer(options: Options, sd: Any, steps: int) -> Any:
    """Makes and compiles the trainer of a run of so many optimizer steps."""
    optimizer = options.of(training.OptimizerOptions)
    make_optimizer = functools.partial(optimizer.make, steps)
    trainer = keras_sdft.Trainer(
        sd,
        train=parts_of(options, make_optimizer),
        objective=options.of(training.Objective),
        noise=options.of(training.Noise),
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        ema_decay=options.ema_decay,
        seed=options.seed,
    )
    jit = "auto" if options.jit_compile is None else options.jit_compile
    trainer.compile(make_optimizer(), jit_compile=jit)
    return trainer


def resolved(
    options: Options, inputs: dict[str, str | None], *made: str
) -> dict[str, Any]:
    """Returns the values of flags as they are saved with the run.

    Paths are absolute, so the file works from any folder; `overwrite` is
    false, because a saved permission to replace a run would be used by the
    next one.
    """
    values = options.plain()
    there = [n for n, path in inputs.items() if path and os.path.exists(path)]
    for name in (*there, *made, "output_dir"):
        if values[name] is not None:
            values[name] = os.path.abspath(values[name])
    values["overwrite"] = False
    del values["resume"]
    return values


# === What is told ===


def _opening(
    options: Options, kind: type[Source], trainer: Any, data: runs.RunData
) -> list[str]:
    sd, micro = trainer.stable_diffusion, options.gradient_accumulation_steps
    weights = sd.diffusion_model.count_params()
    batch = f"{data.images_per_step // micro} images"
    if micro > 1:
        batch = f"{micro} x {batch}"
    device = distribution.describe(data.images_per_step // micro)
    epoch = f"; an epoch is {_steps(data.steps_per_epoch)}"
    lines = [
        f"Training {options.model} ({weights:,} weights) on "
        f"{getattr(options, kind.inputs[0])}",
        f"{_steps(data.steps)} of {batch} at {sd.img_width} x "
        f"{sd.img_height}, on {device}{epoch if data.is_pass else ''}",
        f"{options.optimizer}, learning rate {options.learning_rate:g}, "
        f"{options.lr_scheduler}",
    ]
    names = [part.name.replace("_", " ") for part in parts_of(options)]
    if len(names) > 1:
        lines.append(f"what learns: {', '.join(names)}")
    return lines + data.report.summary().splitlines()


def _steps(count: int) -> str:
    return f"{count:,} step{'s' if count != 1 else ''}"
