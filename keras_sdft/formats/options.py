"""What to convert and to write, as the command's flags have it."""

import dataclasses
from typing import Literal

from keras_sdft import hub


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert, and into what.

    Args:
        model: A diffusers folder, an original `.safetensors` checkpoint, a
            LoRA, or whatever `train --model` takes.
        format: `keras_cv` (a directory of Keras weights), `diffusers` (a
            pipeline folder) or `ldm` (a single `.safetensors` file, for
            A1111 and ComfyUI). Of a LoRA, `diffusers` or `kohya` (for A1111
            and ComfyUI).
        ema: Take the averaged copy of the U-Net from an original
            checkpoint.
        variant: Which weights of a diffusers folder to take, for example
            fp16. Defaults to the plain ones, or the only ones.
        weights_directory: Directory with local copies of a preset's
            published files, for machines without network.
        vae: Another autoencoder to take: a file or folder of one alone, or
            a model that has one.
    """

    model: str = dataclasses.field(metadata=hub.pinning("model"))
    format: Literal["keras_cv", "diffusers", "ldm", "kohya"]
    ema: bool = False
    variant: str | None = None
    weights_directory: str | None = None
    vae: str | None = dataclasses.field(
        default=None, metadata=hub.pinning("vae")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The output: where to, and how.

    Args:
        output: The directory to write, or the file for `ldm`.
        format: `keras_cv`, `diffusers` or `ldm`, as for convert.
        dtype: Of the weights that are written.
        overwrite: Replace what is there.
    """

    output: str
    format: Literal["keras_cv", "diffusers", "ldm"] = "diffusers"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    overwrite: bool = False
