"""Presets: a spec, and where its weights come from.

Must not know how a weight file is laid out inside.
"""

import dataclasses
from pathlib import Path

from keras_sdft import checks
from keras_sdft.models import words
from keras_sdft.models.spec import AutoencoderSpec
from keras_sdft.models.spec import DiffusionModelSpec
from keras_sdft.models.spec import StableDiffusionSpec
from keras_sdft.models.spec import TextEncoderSpec

_SD1 = "https://huggingface.co/fchollet/stable-diffusion/resolve/main/"
_SD2 = "https://huggingface.co/ianstenbit/keras-sd2.1/resolve/main/"
_HERE = Path(__file__).parent
_CLIP_MERGES = _HERE / "clip" / "bpe_simple_vocab_16e6.txt.gz"


@dataclasses.dataclass(frozen=True)
class Source:
    """A published file: its name, where it is, and its SHA-256."""

    file_name: str
    address: str
    file_hash: str


@dataclasses.dataclass(frozen=True)
class Preset:
    """A model by name.

    Attributes:
        spec: A `StableDiffusionSpec`.
        sources: The published file of each part that is fetched.
        merges: Path of its vocabulary, which ships with the package.
        weights: Path of the directory of weights that ship with the
            package, if any, see `packaged`.
        words: Path of the words that these weights know, see `words`.
    """

    spec: StableDiffusionSpec
    sources: dict[str, Source] = dataclasses.field(default_factory=dict)
    merges: Path = _CLIP_MERGES
    weights: Path | None = None
    words: Path | None = None


_SHARED_SOURCES = {
    "image_encoder": Source(
        "vae_encoder.h5",
        _SD1 + "vae_encoder.h5",
        "c60fb220a40d090e0f86a6ab4c312d113e115c87c40ff75d11ffcf380aab7ebb",
    ),
    "decoder": Source(
        "kcv_decoder.h5",
        _SD1 + "kcv_decoder.h5",
        "ad350a65cc8bc4a80c8103367e039a3329b4231c2469a1093869a345f55b1962",
    ),
}

PRESETS = {
    "tiny": Preset(
        StableDiffusionSpec(
            name="tiny",
            diffusion_model=DiffusionModelSpec(
                widths=(64, 96, 160, 192),
                blocks=1,
                num_heads=(4, 4, 4, 4),
                context_width=128,
            ),
            text_encoder=TextEncoderSpec(
                vocabulary_size=2048, width=128, depth=4, num_heads=4
            ),
            autoencoder=AutoencoderSpec(
                encoder_widths=(16, 32, 96, 128),
                encoder_blocks=1,
                decoder_widths=(16, 32, 96, 128),
                decoder_blocks=1,
                groups=8,
            ),
            resolution=128,
            num_steps=25,
            guidance_scale=5.0,
        ),
        merges=_HERE / "tiny" / "merges.txt.gz",
        weights=_HERE / "tiny",
        words=_HERE / "tiny" / words.FILE,
    ),
    "sd1.4": Preset(
        StableDiffusionSpec(name="sd1.4"),
        {
            **_SHARED_SOURCES,
            "text_encoder": Source(
                "kcv_encoder.h5",
                _SD1 + "kcv_encoder.h5",
                "4789e63e07c0e54d6a34a29b45ce81ec"
                "e27060c499a709d556c7755b42bb0dc4",
            ),
            "diffusion_model": Source(
                "kcv_diffusion_model.h5",
                _SD1 + "kcv_diffusion_model.h5",
                "8799ff9763de13d7f30a683d653018e1"
                "14ed24a6a819667da4f5ee10f9e805fe",
            ),
        },
    ),
    "sd2.1-base": Preset(
        StableDiffusionSpec(
            name="sd2.1-base",
            diffusion_model=DiffusionModelSpec(
                num_heads=(5, 10, 20, 20),
                context_width=1024,
                linear_projection=True,
            ),
            text_encoder=TextEncoderSpec(
                width=1024, depth=23, num_heads=16, activation="gelu"
            ),
            # OpenCLIP fills captions up with zeros; KerasCV with end tokens.
            pad_token=0,
        ),
        {
            **_SHARED_SOURCES,
            "text_encoder": Source(
                "text_encoder_v2_1.h5",
                _SD2 + "text_encoder_v2_1.h5",
                "985002e68704e1c5c3549de332218e99"
                "c5b9b745db7171d5f31fcd9a6089f25b",
            ),
            "diffusion_model": Source(
                "diffusion_model_v2_1.h5",
                _SD2 + "diffusion_model_v2_1.h5",
                "c31730e91111f98fe0e2dbde4475d381"
                "b5287ebb9672b1821796146a25c5132d",
            ),
        },
    ),
}


def get_preset(name: str) -> Preset:
    """Returns a preset by name.

    Raises:
        ValueError: If there is none of that name; offers the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = checks.nearest(name, PRESETS, cutoff=0.4)
    hint = f" Did you mean {near!r}?" if near else ""
    raise ValueError(
        "Expected the name of a preset or the path of a run, an exported "
        f"directory or a weight file. Presets: {sorted(PRESETS)}. "
        f"Received: {str(name)!r}, which is neither.{hint}"
    )


def fetch(source: Source, weights_directory: str | Path | None = None) -> Path:
    """Finds a published file on this machine, or downloads it.

    Args:
        source: The file.
        weights_directory: Directory with local copies under their
            published names; it is not hashed. `None` for Keras' own cache,
            filled from the network with a check of the SHA-256.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If it is in neither place and cannot be fetched.
    """
    if weights_directory is not None:
        path = Path(weights_directory) / source.file_name
        if path.is_file():
            return path
        raise FileNotFoundError(
            f"No file {source.file_name!r} in weights_directory="
            f"{str(weights_directory)!r}. It is published at "
            f"{source.address}."
        )
    # Looking a preset up must not wait for Keras.
    import keras

    try:
        return Path(
            keras.utils.get_file(
                fname=source.file_name,
                origin=source.address,
                file_hash=source.file_hash,
            )
        )
    except Exception as error:
        # urllib, http and socket errors share no parent below this.
        raise FileNotFoundError(
            f"The file {source.file_name!r} could not be fetched from "
            f"{source.address} ({error}). Fetch it on a machine with "
            "network, put it in a directory, and pass that directory: "
            "`StableDiffusion.from_preset(name, weights_directory=DIR)`, or "
            "`--weights_directory DIR` on the command line."
        ) from error
