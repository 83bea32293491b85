"""Finds what a format cannot hold of a model, a sentence each."""

from keras_sdft.formats.checkpoint import Checkpoint
from keras_sdft.formats.ldm_names import is_open_clip
from keras_sdft.models.spec import AutoencoderSpec

# Layers that the readers of single files run, by whether it is OpenCLIP.
_DEPTHS = {False: 12, True: 23}
_SCALE = AutoencoderSpec().latent_scale


def losses(checkpoint: Checkpoint, format: str) -> list[str]:
    """Lists what is lost when a model is written in a format.

    Args:
        checkpoint: The model.
        format: A name of `FORMATS`.

    Returns:
        A list of sentences for the user.
    """
    spec = checkpoint.spec
    found = []
    if format != "diffusers" and checkpoint.scheduler is not None:
        name = checkpoint.scheduler.get("_class_name")
        found.append(
            f"The scheduler's configuration ({name}) was left out; how its "
            "timesteps are spaced is kept for keras_sdft alone."
        )
    if format != "ldm":
        return found
    if spec.autoencoder.latent_scale != _SCALE:
        found.append(
            f"The latent scale {spec.autoencoder.latent_scale} is kept for "
            f"keras_sdft alone: other readers of single files take {_SCALE}."
        )
    depth = spec.text_encoder.depth
    # Another width is no published model, and has no other readers.
    if spec.text_encoder.width in (768, 1024):
        expected = _DEPTHS[is_open_clip(spec)]
        skip = max(expected - depth, 0) + spec.clip_skip
        if depth < expected:
            found.append(
                f"The text encoder has {depth} layers, and other readers of "
                f"single files expect {expected}: set clip skip {skip} there."
            )
        elif skip > 1:
            found.append(
                f"Clip skip {skip} is kept for keras_sdft alone: set it in "
                "other readers of single files."
            )
    if spec.zero_terminal_snr:
        found.append(
            "Zero terminal SNR is kept for keras_sdft alone: switch it on in "
            "other readers of single files."
        )
    return found
