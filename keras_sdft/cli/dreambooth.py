"""`keras-sdft dreambooth`: photos of a subject in, a run directory out."""

import dataclasses
import os
import sys
from typing import Any

from keras_sdft import checks
from keras_sdft import data
from keras_sdft import distribution
from keras_sdft import hub
from keras_sdft import models
from keras_sdft import runs
from keras_sdft import training
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.run import COMMON
from keras_sdft.cli.run import TRAINING
from keras_sdft.cli.run import Source
from keras_sdft.cli.run import parts_of
from keras_sdft.cli.run import run


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """The photos: of the subject, and to validate with.

    Args:
        instance_data_dir: Folder of photos of the subject, 3 to 30, or
            hf://owner/name. Nothing else in it is read.
        validation_data_dir: Folder of other photos of the subject, to
            validate with.
        validation_every_steps: Optimizer steps between two lines of
            history.csv, and between two validations.
        class_noun: The class, for {class} in the prompts, where {token} is
            the token.
    """

    instance_data_dir: str = dataclasses.field(metadata=hub.pinning("data"))
    validation_data_dir: str | None = dataclasses.field(
        default=None, metadata=hub.pinning("data")
    )
    validation_every_steps: int = 100
    class_noun: str | None = dataclasses.field(
        default=None, metadata={"alias": "class"}
    )

    def __post_init__(self) -> None:
        checks.counts(self, "validation_every_steps")


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
        if options.validation_data_dir is not None:
            _check_held_out(options)
        if subject.prior_preservation == "base":
            training.check_base(parts_of(options))
            if options.change_prediction_type:
                raise ValueError(
                    "`prior_preservation=base` holds the class to what the "
                    "base predicts, and `change_prediction_type` trains the "
                    "model to predict something else. Leave out the one or "
                    "the other."
                )
        if subject.needs_class_images:
            side = options.resolution or spec["resolution"]
            options.of(runs.ClassImageOptions).missing(
                options.class_prompt,
                options.class_data_dir,
                (side, side),
                options.seed,
            )

    def load(self) -> runs.RunData:
        token = _token(self.options)
        if token is not None:
            problem = models.check_token(token, self.sd.tokenizer)
            if problem:
                print(f"Note: {problem}", file=sys.stderr, flush=True)
        # What the model predicts until it is set to be trained.
        self.base = self.sd.spec
        options, self.report = self.options, data.Report()
        training = self.read_training(
            data.load_dreambooth,
            options.instance_data_dir,
            instance_prompt=options.instance_prompt,
            repeats=options.repeats,
        )
        validation = self.read_validation(
            options.validation_data_dir, caption=options.instance_prompt
        )
        steps = self.run.steps(int(training.cardinality()))
        kinds = 1 if options.class_prompt is None else 2
        return runs.RunData(
            training,
            validation,
            self.report,
            self.run.images_per_step * kinds,
            # A pass over a few photos is too short for an epoch of Keras'.
            min(options.validation_every_steps, steps),
            steps,
            is_pass=False,
        )

    def prepare(self, loaded: runs.RunData) -> runs.RunData:
        if self.options.of(data.SubjectOptions).needs_class_images:
            self._generate_class_images()
        subject = self.options.values_of(data.SubjectOptions)
        if self.options.class_prompt is None:
            subject["class_data_dir"] = None
        training = self.read_training(
            data.load_dreambooth,
            self.options.instance_data_dir,
            batches_per_epoch=loaded.steps_per_epoch,
            start=self.start,
            **subject,
        )
        return dataclasses.replace(loaded, training=training)

    def _generate_class_images(self) -> None:
        options, sd = self.options, self.sd
        trained, sd.spec = sd.spec, self.base
        try:
            new = distribution.on_chief(
                lambda: runs.generate_class_images(
                    sd,
                    options.class_prompt,
                    options.class_data_dir,
                    options.of(runs.ClassImageOptions),
                    seed=options.seed,
                )
            )
        finally:
            sd.spec = trained
        if new is not None:
            print(
                f"Class images: {len(new)} generated, "
                f"{options.num_class_images} wanted, in "
                f"{options.class_data_dir}",
                flush=True,
            )


def dreambooth(options: Options) -> None:
    """Teaches a model a subject from a few photos."""
    run(COMMAND, Subject, with_prompts(options))


def with_prompts(options: Options) -> Options:
    """Returns the options with token and class filled into the prompts."""
    filled = {
        name: data.fill_prompt(template, options.token, options.class_noun)
        for name in ("instance_prompt", "class_prompt")
        if (template := getattr(options, name)) is not None
    }
    return options.replace(**filled)


def _token(options: Options) -> str | None:
    prompts = options.instance_prompt, options.class_prompt
    return data.check_dreambooth_prompts(*prompts, options.token)


def _check_held_out(options: Options) -> None:
    folder = hub.local(options.validation_data_dir, "data")
    photos = hub.local(options.instance_data_dir, "data")
    if not os.path.isdir(folder) or os.path.samefile(folder, photos):
        raise ValueError(
            "`validation_data_dir` must hold other photos than "
            f"`instance_data_dir`. Received: {folder!r}, which is no folder or "
            "the same one. Move one or two photos to a folder of their own."
        )


COMMAND = Command(
    run=dreambooth,
    groups=(
        PhotoOptions,
        data.SubjectOptions,
        runs.ClassImageOptions,
        *TRAINING,
    ),
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
