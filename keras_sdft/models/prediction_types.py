"""What a model predicts: what it declares, and what the user says of it.

Must not know how a file declares it.
"""

from pathlib import Path

from keras_sdft.checks import one_of
from keras_sdft.models.spec import StableDiffusionSpec

PREDICTION_TYPES = ("epsilon", "v_prediction")


class UnknownPredictionType(ValueError):
    """A model does not declare what it predicts, and nobody else did."""

    def __init__(self, source: str | Path):
        super().__init__(
            f"{str(source)!r} is a Stable Diffusion 2.x model and does not "
            "declare what it predicts. Expected `prediction_type='epsilon'` "
            "(512-base models) or `'v_prediction'` (768 models); on the "
            "command line, `--prediction_type v_prediction`."
        )


def known_prediction_type(
    source: str | Path,
    spec: StableDiffusionSpec,
    declared: str | None,
    given: str | None,
) -> str:
    """Returns what a model predicts, by the rule for every format.

    What the source declares counts. A source that declares nothing is
    `given`; else SD 1.x is `"epsilon"`, as all of SD 1.x was published, and
    SD 2.x, which was published as both, must be given.

    Args:
        source: The name or path, for the message.
        spec: Its `StableDiffusionSpec`.
        declared: What the source declares, or `None`.
        given: What the user declares, or `None`.

    Raises:
        UnknownPredictionType: If it is not known.
        ValueError: If `given` is no prediction type.
    """
    if given is not None:
        one_of("prediction_type", given, PREDICTION_TYPES)
    found = declared or given
    if found is None and spec.text_encoder.activation == "gelu":
        raise UnknownPredictionType(source)
    return found or "epsilon"


def check_prediction_type(
    source: str | Path, declared: str, given: str | None
) -> None:
    """Compares what was given with what a source declares.

    Args:
        source: The name or path, for the message.
        declared: What the source declares, or was told by `given`.
        given: What the user declares, or `None`.

    Raises:
        ValueError: If they differ.
    """
    if given is None or given == declared:
        return
    one_of("prediction_type", given, PREDICTION_TYPES)
    raise ValueError(
        f"`prediction_type` is {given!r}, and {str(source)!r} declares "
        f"{declared!r}; sampling with the wrong one gives noise. "
        "Leave `prediction_type` out. If the source is mistaken, correct it "
        "there (a pipeline's scheduler_config.json, a single file's "
        "metadata). To fine-tune a model towards another prediction, pass "
        "it to the `Trainer`, or to `keras-sdft train`, with "
        "`change_prediction_type`."
    )
