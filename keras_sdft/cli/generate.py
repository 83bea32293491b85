"""`keras-sdft generate`: images from prompts, as files."""

from keras_sdft import adapters
from keras_sdft import generation
from keras_sdft import models
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


def generate(options: Options) -> None:
    """Generates images from prompts."""
    for path in generation.generate(
        options.of(generation.GenerateOptions),
        options.of(models.ModelOptions),
        options.of(adapters.AdapterFileOptions),
        options.prediction_type,
    ):
        print(path, flush=True)


COMMAND = Command(
    run=generate,
    groups=(
        generation.GenerateOptions,
        models.ModelOptions,
        adapters.AdapterFileOptions,
        models.PredictionOptions,
    ),
    example=(
        'keras-sdft generate --model tiny --prompt "a red heart" '
        "--output heart.png"
    ),
)
