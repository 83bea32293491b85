"""Checks of a dataset's batches against the model that is to be trained.

Must not know noise schedules, losses or optimizers.
"""

from collections.abc import Iterable
from typing import Any

from keras_sdft.encoding import build_encoders
from keras_sdft.training.denoising import ENCODED


def check_dataset(
    dataset: Any,
    stable_diffusion: Any,
    gradient_accumulation_steps: int,
    networks: Iterable[str] = (),
) -> None:
    """Checks a dataset's batches, and builds the encoders they need.

    Args:
        dataset: A `tf.data.Dataset`.
        stable_diffusion: As for `check_batch_spec`.
        gradient_accumulation_steps: Likewise.
        networks: Likewise.

    Raises:
        ValueError: If it is no dataset, or cannot be trained on.
    """
    spec = getattr(dataset, "element_spec", None)
    if spec is None:
        raise ValueError(
            "Expected a `tf.data.Dataset` of batches, from "
            f"`keras_sdft.data.load`. Received: {type(dataset)}."
        )
    check_batch_spec(
        spec, stable_diffusion, gradient_accumulation_steps, networks
    )
    build_encoders(stable_diffusion, spec)


def check_batch_spec(
    spec: Any,
    stable_diffusion: Any,
    gradient_accumulation_steps: int,
    networks: Iterable[str] = (),
) -> None:
    """Checks a dataset's `element_spec` against what a batch must hold.

    Args:
        spec: The `element_spec` of a `tf.data.Dataset`.
        stable_diffusion: The `StableDiffusion` that is to be trained.
        gradient_accumulation_steps: Integer >= 1.
        networks: Names of the networks that are run with gradients.

    Raises:
        ValueError: If the dataset's batches cannot be trained on.
    """
    if not isinstance(spec, dict):
        raise ValueError(
            "A dataset's batches must be dicts of `images` or `moments`, "
            "`token_ids` or `context`, and `example_weight` (see "
            f"`keras_sdft.data.load`). Received: {spec}."
        )
    pixels = _one_of(spec, "images", "moments")
    text = _one_of(spec, "token_ids", "context")
    for network in networks:
        name = ENCODED.get(network)
        if name in spec:
            raise ValueError(
                f"Training {network!r} cannot be used with cached `{name}`: "
                "it was encoded before that network learned anything. Use a "
                f"dataset without `{name}`."
            )
    _one_of(spec, "example_weight")
    moments = 2 * stable_diffusion.spec.autoencoder.latent_channels
    _check_shape(pixels, spec, (3 if pixels == "images" else moments,))
    encoder = stable_diffusion.spec.text_encoder
    context = (encoder.max_length, encoder.width)
    _check_shape(text, spec, context[: 1 if text == "token_ids" else 2])
    _check_sides(pixels, spec[pixels].shape)
    _check_mask(pixels, spec)
    _check_micro_batches(spec[pixels].shape[0], gradient_accumulation_steps)


def _one_of(spec: dict[str, Any], *names: str) -> str:
    for name in names:
        if name in spec:
            return name
    raise ValueError(
        f"A batch must have {' or '.join(f'`{n}`' for n in names)} (see "
        f"`keras_sdft.data.load`). Received only: {sorted(spec)}."
    )


def _check_shape(
    name: str, spec: dict[str, Any], last: tuple[int, ...]
) -> None:
    shape = tuple(spec[name].shape)
    given = shape[len(shape) - len(last) :]
    if any(
        side is not None and side != expected
        for side, expected in zip(given, last, strict=True)
    ):
        raise ValueError(
            f"`{name}` must end in the dimensions {last} for this model. "
            f"Received: shape={shape}."
        )


def _check_sides(name: str, shape: Any) -> None:
    step = 64 if name == "images" else 8
    if any(side is not None and side % step for side in shape[1:3]):
        raise ValueError(
            f"Height and width of `{name}` must be multiples of {step}. "
            f"Received: shape={tuple(shape)}."
        )


def _check_mask(pixels: str, spec: dict[str, Any]) -> None:
    if "loss_mask" not in spec:
        return
    step = 8 if pixels == "images" else 1
    size, height, width = spec[pixels].shape[:3]
    latents = [None if s is None else s // step for s in (height, width)]
    expected = (size, *latents, 1)
    shape = tuple(spec["loss_mask"].shape)
    if len(shape) == 4 and all(
        None in pair or pair[0] == pair[1]
        for pair in zip(shape, expected, strict=True)
    ):
        return
    raise ValueError(
        "`loss_mask` must have the size of the latents, an eighth of the "
        f"images': {expected}. Received: shape={shape}."
    )


def _check_micro_batches(batch_size: int | None, steps: int) -> None:
    if batch_size is None or batch_size % steps == 0:
        return
    raise ValueError(
        "The dataset's batch size must be a multiple of "
        "`gradient_accumulation_steps`, since each batch is one optimizer "
        f"step. Received: batch size {batch_size}, "
        f"gradient_accumulation_steps={steps}."
    )
