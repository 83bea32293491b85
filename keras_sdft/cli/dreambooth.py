"""`keras-sdft dreambooth`: photos of a subject in, a run directory out.

What can be wrong is found before class images are generated, which may take
an hour.
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
from keras_sdft.cli.options import COMMON
from keras_sdft.cli.options import TRAINING
from keras_sdft.cli.options import check_counts
from keras_sdft.cli.resume import with_saved_flags
from keras_sdft.cli.run import Source
from keras_sdft.cli.run import run
from keras_sdft.cli.training import parts_of
from keras_sdft.cli.training_data import Data
from keras_sdft.cli.training_data import Start
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


class Subject(Source):
    """Photos of a subject, and images of its class."""

    inputs = ("instance_data_dir", "class_data_dir", "validation_data_dir")
    made = "class_data_dir"

    @property
    def prompt(self) -> str:
        return self.options.instance_prompt

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        _token(options)
        subject = options.of(data.SubjectOptions)
        data.check_dreambooth_folders(
            options.instance_data_dir,
            options.class_data_dir,
            subject.class_prompt if subject.needs_class_images else None,
            options.num_class_images,
        )
        _check_held_out(options.validation_data_dir, options.instance_data_dir)
        if subject.prior_preservation == "base":
            _check_base(options)
        if subject.needs_class_images:
            folder = options.class_data_dir
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

    def load(self, start: Start) -> Data:
        token = _token(self.options)
        if token is not None:
            problem = data.check_token(token, self.sd.tokenizer).problem
            if problem:
                print(f"Note: {problem}", file=sys.stderr, flush=True)
        # What the model predicts until it is set to be trained.
        self.base = self.sd.spec
        return load_photos(self.options, self.sd)

    def prepare(self, data: Data, start: Start) -> Data:
        self._generate_class_images()
        return load_subject(self.options, self.sd, data, start)

    def _generate_class_images(self) -> None:
        options, sd = self.options, self.sd
        if not options.of(data.SubjectOptions).needs_class_images:
            return
        trained, sd.spec = sd.spec, self.base
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


def dreambooth(options: Options) -> None:
    """Teaches a model a subject from a few photos."""
    run(COMMAND, Subject, with_prompts(options))


def with_prompts(options: Options) -> Options:
    """Returns the options with token and class filled into the prompts."""
    prompts = ("instance_prompt", "class_prompt")
    return options.replace(**{n: _filled(options, n) for n in prompts})


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


def _token(options: Options) -> str | None:
    prompts = options.instance_prompt, options.class_prompt
    return data.check_dreambooth_prompts(*prompts, options.token)


def _check_base(options: Options) -> None:
    training.check_base(parts_of(options))
    if options.change_prediction_type:
        raise ValueError(
            "`prior_preservation=base` holds the class to what the base "
            "predicts, and `change_prediction_type` trains the model to "
            "predict something else. Leave out the one or the other."
        )


def _check_held_out(folder: str | None, photos: str) -> None:
    if folder is None:
        return
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            "`validation_data_dir` must be a folder of photos. Received: "
            f"{folder!r}, which does not exist or is no folder."
        )
    if os.path.samefile(folder, photos):
        raise ValueError(
            "`validation_data_dir` must hold other photos than "
            f"`instance_data_dir`. Received {folder!r} for both. Move one or "
            "two photos to a folder of their own."
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
        "train_text_encoder",
        *COMMON,
    ),
    example=(
        "keras-sdft dreambooth --model tiny --instance_data_dir photos \\\n"
        '    --instance_prompt "a photo of sks dog" --output_dir runs/dog \\\n'
        "    --max_train_steps 400"
    ),
)
