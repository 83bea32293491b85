"""The options of the objective, and what they make of a model.

Imports neither Keras nor TensorFlow before a model is asked for.
"""

import dataclasses
import functools
import typing
from typing import Any
from typing import Literal

from keras_sdft import checks

PredictionType = Literal["epsilon", "v_prediction"]
Loss = Literal["mse", "huber"]
Weighting = Literal["constant", "min_snr", "p2", "debiased"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The objective: what is learned from a noised image.

    In Python `weighting` may also be a function `(snr, prediction_type) ->
    weights`, see `keras_sdft.diffusion.weighting_table`.

    Args:
        prediction_type: What the model learns to predict. Defaults to what
            it predicts; needed for files that do not say.
        change_prediction_type: Let prediction_type be another than the
            model's, which it must then learn anew.
        zero_terminal_snr: Let the noise schedule end in pure noise; for
            v_prediction only. Defaults to the model's own schedule.
        loss: How an error counts.
        huber_delta: Error from which the loss huber grows linearly.
        weighting: Weight of each timestep in the loss.
        snr_gamma: Ceiling on the signal-to-noise ratio for the weighting
            min_snr. Defaults to 5.
        p2_gamma: How strongly the weighting p2 turns from timesteps with
            little noise. Defaults to 1.

    Raises:
        ValueError: If an option is out of its range, has no effect, or
            contradicts another.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, 2020, section
        3.4.
    """

    prediction_type: PredictionType | None = None
    change_prediction_type: bool = False
    zero_terminal_snr: bool | None = None
    loss: Loss = "mse"
    huber_delta: float = 0.1
    weighting: Weighting = "constant"
    snr_gamma: float | None = None
    p2_gamma: float | None = None

    def __post_init__(self) -> None:
        if self.prediction_type is not None:
            names = typing.get_args(PredictionType)
            checks.one_of("prediction_type", self.prediction_type, names)
        checks.boolean("change_prediction_type", self.change_prediction_type)
        if self.zero_terminal_snr is not None:
            checks.boolean("zero_terminal_snr", self.zero_terminal_snr)
        if self.zero_terminal_snr:
            _check_zero_terminal_snr(self.prediction_type)
        checks.one_of("loss", self.loss, typing.get_args(Loss))
        checks.number("huber_delta", self.huber_delta, above=0)
        if not callable(self.weighting):
            names = typing.get_args(Weighting)
            checks.one_of("weighting", self.weighting, names)
        for name in ("snr_gamma", "p2_gamma"):
            if getattr(self, name) is not None:
                checks.number(name, getattr(self, name), above=0)
        checks.effective(self, ["change_prediction_type"], "prediction_type")
        checks.effective(self, ["huber_delta"], "loss", "huber")
        checks.effective(self, ["snr_gamma"], "weighting", "min_snr")
        checks.effective(self, ["p2_gamma"], "weighting", "p2")

    def resolve(
        self,
        prediction_type: str | None,
        zero_terminal_snr: bool = False,
        is_pretrained: bool = True,
    ) -> tuple[Any, bool]:
        """Returns what a model is trained to predict, and its schedule's end.

        Args:
            prediction_type: What the model predicts, or `None` if that is
                not known.
            zero_terminal_snr: Boolean, whether its schedule ends in pure
                noise.
            is_pretrained: Boolean, whether its weights are more than an
                initialisation.

        Returns:
            Tuple of a prediction type (`None` if it is not known) and a
            boolean, `zero_terminal_snr`.

        Raises:
            ValueError: If the model cannot be trained so.
        """
        own, asked = prediction_type, self.prediction_type
        changes = None not in (own, asked) and own != asked
        if changes and is_pretrained and not self.change_prediction_type:
            raise ValueError(
                f"`prediction_type={asked!r}` was asked of a model whose "
                f"weights predict {own!r}. Leave `prediction_type` out. To "
                "train it to predict something else, which takes far longer "
                "than a fine-tune, set `change_prediction_type` to true."
            )
        result = asked or own
        if self.zero_terminal_snr is not None:
            zero_terminal_snr = self.zero_terminal_snr
        if zero_terminal_snr:
            _check_zero_terminal_snr(result)
        if result is not None:
            self.weights(result, zero_terminal_snr)
        return result, bool(zero_terminal_snr)

    def weights(self, prediction_type: str, zero_terminal_snr: bool) -> Any:
        """Returns the weight of each timestep, float32 `(T,)`.

        Raises:
            ValueError: If the weighting cannot be used with the schedule.
        """
        from keras_sdft import diffusion

        weighting: Any = self.weighting
        if self.snr_gamma is not None:
            function: Any = diffusion.min_snr
            weighting = functools.partial(function, gamma=self.snr_gamma)
        if self.p2_gamma is not None:
            weighting = functools.partial(diffusion.p2, gamma=self.p2_gamma)
        snr = diffusion.NoiseSchedule(zero_terminal_snr=zero_terminal_snr).snr
        return diffusion.weighting_table(weighting, snr, prediction_type)


def _check_zero_terminal_snr(prediction_type: str | None) -> None:
    if prediction_type == "epsilon":
        raise ValueError(
            "`zero_terminal_snr` cannot be used with "
            "`prediction_type='epsilon'`: at pure noise the noise is the "
            "input itself, and nothing is learned about the image. Use a "
            "v-prediction model."
        )
