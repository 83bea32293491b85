"""`keras-sdft convert` and `merge`: a whole model in another format."""

from keras_sdft import adapters
from keras_sdft import formats
from keras_sdft import models
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


def convert(options: Options) -> None:
    """Converts a model to another tool's format, or from it."""
    formats.convert(**vars(options))
    print(f"Wrote {options.output}")


def merge(options: Options) -> None:
    """Adds LoRAs to a model's weights, and writes it."""
    sd = options.of(models.ModelOptions).load(
        prediction_type=options.prediction_type
    )
    options.of(adapters.AdapterFileOptions).load_into(sd)
    if not sd.has_adapters:
        raise ValueError(
            f"There is nothing to merge: {options.model!r} is no run of a "
            "LoRA, and no `--lora FILE` was given."
        )
    sd.merge_adapters()
    words = list(sd.adapters.embeddings)
    sd.unload_adapters(words)
    formats.save(
        sd, options.output, options.format, options.dtype, options.overwrite
    )
    print(f"Wrote {options.output}")
    if words:
        print(f"Left out, as files of their own: {', '.join(words)}")


CONVERT = Command(
    run=convert,
    groups=(
        formats.ConvertOptions,
        formats.OutputOptions,
        models.PredictionOptions,
    ),
    example=(
        "keras-sdft convert --model runs/first --output model.safetensors "
        "--format ldm"
    ),
)
MERGE = Command(
    run=merge,
    groups=(
        formats.OutputOptions,
        models.ModelOptions,
        adapters.AdapterFileOptions,
        models.PredictionOptions,
    ),
    example=(
        "keras-sdft merge --model sd1.4 --lora style.safetensors:0.8 "
        "--output merged"
    ),
)
