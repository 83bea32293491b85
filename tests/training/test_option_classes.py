"""The dataclasses of the options: what they refuse, and what they make."""

import subprocess
import sys

import numpy as np
import pytest

from keras_sdft.training import PART_OPTIONS
from keras_sdft.training import DiffusionModel
from keras_sdft.training import Noise
from keras_sdft.training import Objective
from keras_sdft.training import OptimizerOptions
from keras_sdft.training import TextEncoder
from keras_sdft.training import TextEncoderOptions
from keras_sdft.training import parts

BAD = [
    (Objective, {"loss": "hubber"}, "Did you mean 'huber'"),
    (Objective, {"weighting": "min-snr"}, "Did you mean 'min_snr'"),
    (Objective, {"prediction_type": "eps"}, "prediction_type"),
    (Objective, {"loss": "huber", "huber_delta": 0}, "huber_delta"),
    (Objective, {"huber_delta": 0.2}, "without `loss=huber`"),
    (Objective, {"snr_gamma": 5.0}, "without `weighting=min_snr`"),
    (Objective, {"weighting": "p2", "p2_gamma": 0}, "`p2_gamma`"),
    (Objective, {"change_prediction_type": True}, "`prediction_type`"),
    (Objective, {"zero_terminal_snr": 1}, "zero_terminal_snr"),
    (
        Objective,
        {"prediction_type": "epsilon", "zero_terminal_snr": True},
        "v-prediction",
    ),
    (Noise, {"offset_noise": -1}, "offset_noise"),
    (Noise, {"offset_noise": float("nan")}, "offset_noise"),
    (Noise, {"multires_noise_iterations": 2.5}, "multires_noise_iterations"),
    (Noise, {"multires_noise_discount": 0}, "multires_noise_discount"),
    (Noise, {"multires_noise_discount": 0.5}, "multires_noise_iterations"),
    (Noise, {"input_perturbation": -0.1}, "input_perturbation"),
    (Noise, {"timestep_range": (500, 500)}, "timestep_range"),
    (Noise, {"timestep_range": 500}, "timestep_range"),
    (Noise, {"timestep_bias_strategy": "latter"}, "Did you mean 'later'"),
    (Noise, {"timestep_bias_strategy": "later"}, "changes nothing"),
    (Noise, {"timestep_bias_multiplier": 2.0}, "no effect without"),
    (
        Noise,
        {"timestep_bias_strategy": np.ones(9), "timestep_bias_end": 3},
        "your own",
    ),
    (OptimizerOptions, {"optimizer": "adamm"}, "Did you mean 'adamw'"),
    (OptimizerOptions, {"learning_rate": 0}, "learning_rate"),
    (OptimizerOptions, {"lr_warmup_steps": -1}, "lr_warmup_steps"),
    (OptimizerOptions, {"adam_beta1": 1.0}, "adam_beta1"),
    (OptimizerOptions, {"optimizer": "lion", "adam_beta1": 0.8}, "no effect"),
    (OptimizerOptions, {"lr_num_cycles": 2}, "cosine_with_restarts"),
    (
        OptimizerOptions,
        {"lr_scheduler": "polynomial", "lr_end": 1e-5},
        "less than `learning_rate`",
    ),
    (
        OptimizerOptions,
        {"optimizer": "schedule_free_adamw", "lr_scheduler": "linear"},
        "takes the place",
    ),
    (TextEncoderOptions, {"text_encoder_stop_step": 5}, "train_text_encoder"),
    (
        TextEncoderOptions,
        {"train_text_encoder": True, "text_encoder_learning_rate": 0},
        "text_encoder_learning_rate",
    ),
    (TextEncoder, {"stop_step": 0}, "stop_step"),
    (TextEncoder, {"learning_rate": 1e-6, "optimizer": "sgd"}, "either"),
]


@pytest.mark.parametrize("options, values, message", BAD)
def test_bad_options_are_refused(options, values, message):
    with pytest.raises(ValueError, match=message):
        options(**values)


def test_options_import_neither_keras_nor_tensorflow():
    """They are the command's flags, whose help must not take seconds."""
    code = (
        "import sys\n"
        "from keras_sdft import training as t\n"
        "t.Objective(loss='huber'), t.Noise(offset_noise=0.1)\n"
        "t.OptimizerOptions(optimizer='lion'), t.TextEncoderOptions()\n"
        "t.PART_OPTIONS, t.optimizers.OPTIMIZERS\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_names_of_schedules_are_those_there_are():
    from keras_sdft.training import schedules

    for name in schedules.SCHEDULES:
        OptimizerOptions(lr_scheduler=name).make(10)


def test_the_prediction_of_a_model_is_kept_unless_asked_otherwise():
    assert Objective().resolve("epsilon") == ("epsilon", False)
    assert Objective().resolve("v_prediction", True) == ("v_prediction", True)
    other = Objective(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="change_prediction_type"):
        other.resolve("epsilon")
    assert other.resolve(None) == ("v_prediction", False)
    assert other.resolve("epsilon", is_pretrained=False)[0] == "v_prediction"
    with pytest.raises(ValueError, match="v-prediction model"):
        Objective(zero_terminal_snr=True).resolve("epsilon")
    with pytest.raises(ValueError, match="'p2'.*zero terminal SNR"):
        Objective(weighting="p2").resolve("v_prediction", True)


def test_probabilities_of_timesteps():
    assert Noise().probabilities() is None
    found = Noise(
        timestep_range=[0, 500],
        timestep_bias_strategy="range",
        timestep_bias_multiplier=3.0,
        timestep_bias_end=250,
    ).probabilities()
    np.testing.assert_allclose(found[:250], 3 / 1000)
    np.testing.assert_allclose(found[250:500], 1 / 1000)
    assert not found[500:].any()
    own = Noise(timestep_bias_strategy=lambda count: np.arange(count) < 10)
    np.testing.assert_allclose(own.probabilities()[:10], 0.1)
    with pytest.raises(ValueError, match="1000"):
        Noise(timestep_range=[0, 1001]).probabilities()


def test_an_optimizer_with_its_schedule():
    options = OptimizerOptions(
        learning_rate=1e-3,
        lr_scheduler="polynomial",
        lr_warmup_steps=2,
        lr_end=1e-4,
        adam_beta2=0.9,
        max_grad_norm=None,
    )
    optimizer = options.make(10)
    assert optimizer.beta_2 == 0.9 and optimizer.global_clipnorm is None
    assert optimizer.weight_decay == 1e-2
    rates = optimizer.get_config()["learning_rate"]["config"]
    assert rates["learning_rate"] == 1e-3 and rates["num_steps"] == 10
    # Another rate falls in the same proportion.
    other = options.make(10, 1e-5).get_config()["learning_rate"]["config"]
    assert other["end_learning_rate"] == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="lr_warmup_steps=2"):
        options.make(2)
    plain = OptimizerOptions(optimizer="adafactor").make(10)
    assert float(plain.learning_rate) == pytest.approx(5e-4)


def test_parts_by_name_and_by_option():
    assert [type(part) for part in parts.get("text_encoder")] == [TextEncoder]
    both = parts.get(["diffusion_model", TextEncoder(stop_step=3)])
    assert [part.name for part in both] == ["diffusion_model", "text_encoder"]
    for wrong in ("unet", [], object()):
        with pytest.raises(ValueError, match="`train`"):
            parts.get(wrong)
    first = [DiffusionModel()]
    for options in PART_OPTIONS:
        assert options().apply(first, None) == first
    found = TextEncoderOptions(
        train_text_encoder=True,
        text_encoder_learning_rate=1e-6,
        text_encoder_stop_step=5,
    ).apply(first, lambda rate: ("made", rate))
    assert found[0] is first[0] and found[1].stop_step == 5
    assert found[1].optimizer == ("made", 1e-6)
