"""`keras-sdft dreambooth`: photos of a subject in, a run directory out.

Puts the package's public names together; the work is theirs. What can be
wrong is found before class images are generated, which may take an hour.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from keras_sdft import checks
from keras_sdft import data
from keras_sdft import files
from keras_sdft import runs
from keras_sdft import training
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.memory import check_memory
from keras_sdft.cli.options import TRAINING
from keras_sdft.cli.options import check_counts
from keras_sdft.cli.repeated_warnings import each_warning_once
from keras_sdft.cli.resume import check_steps
from keras_sdft.cli.resume import find_checkpoint
from keras_sdft.cli.resume import open_run
from keras_sdft.cli.resume import start_of
from keras_sdft.cli.resume import with_saved_flags
from keras_sdft.cli.run import RunLabels
from keras_sdft.cli.run import inputs_of
from keras_sdft.cli.run import load_for_training
from keras_sdft.cli.run import resolved
from keras_sdft.cli.run import run_training
from keras_sdft.cli.training import check_training
from keras_sdft.cli.training import interruption
from keras_sdft.cli.training import make_callbacks
from keras_sdft.cli.training import make_trainer
from keras_sdft.cli.training import parts_of
from keras_sdft.cli.training import resolve_defaults
from keras_sdft.cli.training_data import load_photos
from keras_sdft.cli.training_data import load_subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """The photos: of the subject, and to validate with.

    Args:
        instance_data_dir: Folder of photos of the subject, 3 to 30. Nothing
            else in it is read.
        validation_data_dir: Folder of other photos of the subject, to
            validate with.
        validation_every_steps: Optimizer steps between two lines of
            history.csv, and between two validations.
    """

    instance_data_dir: str
    validation_data_dir: str | None = None
    validation_every_steps: int = 100

    def __post_init__(self) -> None:
        check_counts(self, "validation_every_steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassImageOptions:
    """The class images: those that are missing are generated.

    Args:
        class_noun: The class, for {class} in the prompts, where {token} is
            the token.
        num_class_images: How many class images class_data_dir shall hold.
        sample_batch_size: Class images that are generated at once.
        class_num_steps: Sampling steps of a class image.
        class_guidance_scale: Guidance of a class image.
    """

    class_noun: str | None = dataclasses.field(
        default=None, metadata={"alias": "class"}
    )
    num_class_images: int = 200
    sample_batch_size: int = 4
    class_num_steps: int = 50
    class_guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        check_counts(self, "num_class_images", "sample_batch_size")
        checks.integer("class_num_steps", self.class_num_steps, 1, 1000)
        checks.number("class_guidance_scale", self.class_guidance_scale, 0)


_FOLDERS = ("instance_data_dir", "class_data_dir", "validation_data_dir")


def dreambooth(options: Options) -> None:
    """Teaches a model a subject from a few photos.

    Raises:
        ValueError: If an option is out of its range, if folders or prompts
            are not as they must be, or if the loss became NaN or infinite.
        OSError: If a file is missing or may not be replaced.
    """
    with each_warning_once():
        options = with_prompts(options)
        inputs = inputs_of(options, _FOLDERS)
        token = check_dreambooth(options)
        made = {"class_data_dir": options.class_data_dir}
        with open_run("dreambooth", options, inputs, made) as run:
            _dreambooth(resolve_defaults(options), run, inputs, token)


def _dreambooth(
    options: Options,
    run: Any,
    inputs: dict[str, str | None],
    token: str | None,
) -> None:
    saved = resolved(options, inputs)
    if options.class_data_dir is not None:
        saved["class_data_dir"] = os.path.abspath(options.class_data_dir)
    found = find_checkpoint(options, run, saved)
    sd = load_for_training(options)
    _tell_of_token(token, sd)
    photos = load_photos(options, sd)
    check_steps(found, photos.steps)
    base = sd.spec
    trainer = make_trainer(options, sd, photos.steps)
    check_memory(options, trainer, photos)
    if options.of(data.SubjectOptions).needs_class_images:
        _generate(options, sd, base)
    loaded = load_subject(options, sd, photos, start_of(found, photos))
    callbacks = make_callbacks(options, run, loaded, interruption())
    labels = RunLabels(options.instance_data_dir, options.instance_prompt)
    run_training(options, run, saved, loaded, trainer, callbacks, labels, found)


def with_prompts(options: Options) -> Options:
    """Returns the options with token and class filled into the prompts.

    Raises:
        ValueError: If a prompt has a field that no value was given for.
    """
    return options.replace(
        instance_prompt=_filled(options, "instance_prompt"),
        class_prompt=_filled(options, "class_prompt"),
    )


def _filled(options: Options, flag: str) -> Any:
    template = getattr(options, flag)
    if template is None:
        return None
    noun = options.class_noun or ""
    # Text without a field stays as it was typed.
    one, other = (data.fill_prompt(template, t, noun) for t in ("a", "b"))
    if one != other and options.token is None:
        raise ValueError(
            f"`{flag}` holds a field for the token, and no `--token` was "
            f"given. Received: {template!r}. Add `--token sks`, for example."
        )
    if one == " ".join(template.split()):
        return template
    return data.fill_prompt(template, options.token or "", noun)


def check_dreambooth(options: Options) -> str | None:
    """Checks what needs neither a model nor the directory of the run.

    Args:
        options: `Options`, from `with_prompts`.

    Returns:
        The subject's token, or `None` if nothing tells it.
    """
    token = data.check_dreambooth_prompts(
        options.instance_prompt, options.class_prompt, options.token
    )
    with_images = options.of(data.SubjectOptions).needs_class_images
    data.check_dreambooth_folders(
        options.instance_data_dir,
        options.class_data_dir,
        options.class_prompt if with_images else None,
        options.num_class_images,
    )
    _check_held_out(options)
    spec = check_training(options)
    _check_base(options)
    if with_images:
        folder = options.class_data_dir or ""
        missing = data.missing_class_images(
            folder,
            options.num_class_images,
            options.class_prompt,
            options.seed,
        )
        if missing:
            files.check_writable(folder, "class_data_dir")
        side = options.resolution or spec["resolution"]
        data.check_disk_space(folder, len(missing), side, side)
    return token


def _check_base(options: Options) -> None:
    if options.prior_preservation != "base":
        return
    training.check_base(parts_of(options))
    if options.change_prediction_type:
        raise ValueError(
            "`prior_preservation=base` holds the class to what the base "
            "predicts, and `change_prediction_type` trains the model to "
            "predict something else. Leave out the one or the other."
        )


def _check_held_out(options: Options) -> None:
    folder = options.validation_data_dir
    if folder is None:
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            "`validation_data_dir` must be a folder of photos. Received: "
            f"{folder!r}, which does not exist or is no folder."
        )
    if os.path.samefile(folder, options.instance_data_dir):
        raise ValueError(
            "`validation_data_dir` must hold other photos than "
            f"`instance_data_dir`. Received {folder!r} for both. Move one or "
            "two photos to a folder of their own."
        )


def _tell_of_token(token: str | None, sd: Any) -> None:
    if token is None:
        return
    problem = data.check_token(token, sd.tokenizer).problem
    if problem:
        print(f"Note: {problem}", file=sys.stderr, flush=True)


def _generate(options: Options, sd: Any, base: Any) -> None:
    """Generates the missing class images.

    Args:
        options: The options of `dreambooth`.
        sd: `keras_sdft.StableDiffusion`.
        base: Its spec from before it was set to be trained: what the model
            predicts until then.
    """
    trained, sd.spec = sd.spec, base
    try:
        new = runs.generate_class_images(
            sd,
            options.class_prompt,
            options.class_data_dir,
            options.num_class_images,
            batch_size=options.sample_batch_size,
            seed=options.seed,
            num_steps=options.class_num_steps,
            guidance_scale=options.class_guidance_scale,
        )
    finally:
        sd.spec = trained
    print(
        f"Class images: {len(new)} generated, {options.num_class_images} "
        f"wanted, in {options.class_data_dir}",
        flush=True,
    )


COMMAND = Command(
    run=dreambooth,
    expand=with_saved_flags,
    groups=(PhotoOptions, data.SubjectOptions, ClassImageOptions, *TRAINING),
    # A few photos are memorized at the learning rate of a data set.
    defaults={"learning_rate": 1e-6},
    common=(
        "class_prompt",
        "prior_preservation",
        "class_data_dir",
        "num_class_images",
        "resolution",
        "max_train_steps",
        "learning_rate",
        "lora_rank",
        "train_text_encoder",
        "preview_prompts",
        "mixed_precision",
        "overwrite",
    ),
    example=(
        "keras-sdft dreambooth --model tiny --instance_data_dir photos \\\n"
        '    --instance_prompt "a photo of sks dog" --output_dir runs/dog \\\n'
        "    --max_train_steps 400"
    ),
)
