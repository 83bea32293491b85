"""What is trained, and to answer what: checked before anything is built.

Must not know losses, batches or optimizers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_sdft.diffusion import NoiseSchedule
from keras_sdft.diffusion import check_prediction_type


def retarget(
    stable_diffusion: Any,
    prediction_type: str | None,
    zero_terminal_snr: bool | None,
    change_prediction_type: bool,
) -> tuple[Any, NoiseSchedule]:
    """The spec and the noise schedule that training will make true.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`; not changed.
        prediction_type: `"epsilon"`, `"v_prediction"`, or `None` for the
            model's own.
        zero_terminal_snr: Boolean, or `None` for the model's own.
        change_prediction_type: Boolean, whether a model with weights may
            learn another answer.

    Returns:
        Tuple of a `StableDiffusionSpec` and a `NoiseSchedule`.

    Raises:
        ValueError: If the model was trained for another answer.
    """
    spec = stable_diffusion.spec
    prediction_type = check_prediction_type(
        prediction_type or spec.prediction_type
    )
    other = prediction_type != spec.prediction_type
    if other and stable_diffusion.is_pretrained and not change_prediction_type:
        raise ValueError(
            f"`prediction_type={prediction_type!r}` was asked of a model "
            f"whose weights predict {spec.prediction_type!r}. Expected the "
            "model's own: leave `prediction_type` out. To train it to a new "
            "answer, which takes far longer than a fine-tune, pass "
            "`change_prediction_type=True`."
        )
    if zero_terminal_snr is None:
        zero_terminal_snr = spec.zero_terminal_snr
    spec = dataclasses.replace(
        spec,
        prediction_type=prediction_type,
        zero_terminal_snr=bool(zero_terminal_snr),
    )
    return spec, NoiseSchedule(zero_terminal_snr=spec.zero_terminal_snr)


def check_parts(
    train_text_encoder: bool, text_encoder_stop_step: int | None
) -> None:
    """Refuses a stop step that is none, or that stops nothing."""
    if text_encoder_stop_step is None:
        return
    if not train_text_encoder:
        raise ValueError(
            "`text_encoder_stop_step` stops a text encoder that learns. Pass "
            "`train_text_encoder=True`, or leave it out."
        )
    if text_encoder_stop_step < 1:
        raise ValueError(
            "`text_encoder_stop_step` must be >= 1. Received: "
            f"{text_encoder_stop_step}."
        )
