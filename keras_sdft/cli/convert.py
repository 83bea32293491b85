"""`keras-sdft convert`: a model from one format to another.

Hands the options to `keras_sdft.formats.convert`; knows no format itself.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What to convert, and into what.

    Args:
        model: A diffusers folder, an original `.safetensors` checkpoint, a
            LoRA, or whatever `train --model` takes.
        output: The directory to write, or the file for `ldm`.
        format: `keras_cv` (a directory of Keras weights), `diffusers` (a
            pipeline folder) or `ldm` (a single `.safetensors` file, for
            A1111 and ComfyUI). Of a LoRA, `diffusers` or `kohya` (for A1111
            and ComfyUI).
        dtype: Of the weights that are written.
        overwrite: Replace an earlier conversion.
        prediction_type: What the model predicts, for files that do not say.
        ema: Take the averaged copy of the U-Net from an original
            checkpoint.
        variant: Which weights of a diffusers folder to take, for example
            fp16. Defaults to the plain ones, or the only ones.
        weights_directory: Directory with local copies of a preset's
            published files, for machines without network.
        vae: Another autoencoder to take: a file or folder of one alone, or
            a model that has one.
    """

    model: str
    output: str
    format: Literal["keras_cv", "diffusers", "ldm", "kohya"]
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    ema: bool = False
    variant: str | None = None
    weights_directory: str | None = None
    vae: str | None = None


def convert(options: Options) -> None:
    """Converts a model to another tool's format, or from it.

    Args:
        options: `Options`.

    Raises:
        ValueError: If the model cannot be read or written like that.
        OSError: If a file is missing or the output exists.
    """
    import keras_sdft

    keras_sdft.formats.convert(**vars(options))
    print(f"Wrote {options.output}")


COMMAND = Command(
    run=convert,
    groups=(ConvertOptions,),
    example=(
        "keras-sdft convert --model runs/first --output model.safetensors "
        "--format ldm"
    ),
)
