"""`keras-sdft merge`: LoRAs added to a model's weights, in any format."""

from __future__ import annotations

import dataclasses
from typing import Literal

import keras_sdft
from keras_sdft import adapters
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options
from keras_sdft.cli.options import ModelOptions
from keras_sdft.cli.options import PredictionOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """The merged model: where to, and in which format.

    Args:
        output: The directory to write, or the file for `ldm`.
        format: `keras_cv` (a directory of Keras weights), `diffusers` (a
            pipeline folder) or `ldm` (a single `.safetensors` file, for
            A1111 and ComfyUI).
        dtype: Of the weights that are written.
        overwrite: Replace an earlier output.
    """

    output: str
    format: Literal["keras_cv", "diffusers", "ldm"] = "diffusers"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False


def merge(options: Options) -> None:
    """Adds LoRAs to a model's weights, and writes it.

    Raises:
        ValueError: If there is no LoRA, or one does not fit the model.
        OSError: If a file is missing or the output exists.
    """
    sd = options.of(ModelOptions).load(prediction_type=options.prediction_type)
    options.of(adapters.AdapterFileOptions).load_into(sd)
    if not sd.has_adapters:
        raise ValueError(
            f"There is nothing to merge: {options.model!r} is no run of a "
            "LoRA, and no `--lora FILE` was given."
        )
    sd.merge_adapters()
    keras_sdft.formats.save(
        sd, options.output, options.format, options.dtype, options.overwrite
    )
    print(f"Wrote {options.output}")


COMMAND = Command(
    run=merge,
    groups=(
        MergeOptions,
        ModelOptions,
        adapters.AdapterFileOptions,
        PredictionOptions,
    ),
    example=(
        "keras-sdft merge --model sd1.4 --lora style.safetensors:0.8 "
        "--output merged"
    ),
)
