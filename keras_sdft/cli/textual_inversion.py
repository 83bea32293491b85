"""`keras-sdft textual_inversion`: images of one thing in, a new word out."""

import dataclasses
from typing import Literal

from keras_sdft import adapters
from keras_sdft import checks
from keras_sdft import hub
from keras_sdft import runs
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.run import COMMON
from keras_sdft.cli.run import TRAINING
from keras_sdft.cli.run import run
from keras_sdft.cli.train import COMMAND as TRAIN
from keras_sdft.cli.train import Captioned


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordOptions:
    """The new word: images of what it stands for, and what it begins as.

    Args:
        data: Folder of images that have one thing in common, 3 to 30, or
            hf://owner/name. Captions and tables in it are not read.
        validation_data: Folder of other such images, to validate with.
        token: The new word, <cat-toy> for example.
        init_word: Word that its embedding begins with, toy for example.
        num_vectors: Embeddings that stand for the word in a prompt.
        learnable_property: What the images have in common, an object or a
            style. It decides the captions.
        repeats: How often an epoch shows each image.
    """

    data: str = dataclasses.field(metadata=hub.pinning("data"))
    validation_data: str | None = dataclasses.field(
        default=None, metadata=hub.pinning("data")
    )
    token: str
    init_word: str | None = None
    num_vectors: int = 1
    learnable_property: Literal["object", "style"] = "object"
    repeats: int = 100

    def __post_init__(self) -> None:
        checks.counts(self, "num_vectors", "repeats")


class WordImages(Captioned):
    """Images whose captions hold the new word."""

    @property
    def prompt(self) -> str:
        template = self.options.caption_template[0]
        return template.replace("{caption}", self.options.caption)


def textual_inversion(options: Options) -> None:
    """Finds an embedding for a new word from a few images."""
    given = dict(
        vars(options),
        new_token=options.token,
        caption=options.token,
        caption_template=list(
            adapters.CAPTION_TEMPLATES[options.learnable_property]
        ),
    )
    whole = Options(vars(TRAIN.options(**given)), options.given)
    run(COMMAND, WordImages, whole)


COMMAND = Command(
    run=textual_inversion,
    groups=(
        WordOptions,
        # `token` is spelled out above.
        *(g for g in TRAINING if g is not adapters.TextualInversionOptions),
        runs.ValidationOptions,
        runs.CacheOptions,
    ),
    defaults={"learning_rate": 1e-3},
    common=("init_word", "num_vectors", "learnable_property", *COMMON),
    example=(
        "keras-sdft textual_inversion --model tiny --data photos \\\n"
        '    --token "<cat-toy>" --init_word toy --output_dir runs/toy \\\n'
        "    --max_train_steps 1000"
    ),
)
