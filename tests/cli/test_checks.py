import numpy as np
import pytest

import keras_sdft
from keras_sdft.cli import dreambooth
from keras_sdft.cli import train
from keras_sdft.cli.checks import check
from keras_sdft.cli.checks import check_model
from keras_sdft.cli.checks import weighting
from keras_sdft.cli.training_data import check_data
from tests.cli.options import options_of
from tests.cli.options import subject_of

# What has no effect, with what it has one.
IDLE = [
    ({"huber_delta": 0.5}, {"loss": "huber"}),
    ({"snr_gamma": 1.0}, {"weighting": "min_snr"}),
    ({"p2_gamma": 0.5}, {"weighting": "p2"}),
    ({"multires_noise_discount": 0.5}, {"multires_noise_iterations": 6}),
    (
        {"timestep_bias_multiplier": 2.0},
        {"timestep_bias_strategy": "later"},
    ),
    ({"change_prediction_type": True}, {"prediction_type": "v_prediction"}),
    ({"text_encoder_learning_rate": 1e-6}, {"train_text_encoder": True}),
    ({"text_encoder_stop_step": 5}, {"train_text_encoder": True}),
    ({"lr_num_cycles": 2}, {"lr_scheduler": "cosine_with_restarts"}),
    ({"lr_power": 2.0}, {"lr_scheduler": "polynomial"}),
    ({"lr_end": 1e-8}, {"lr_scheduler": "polynomial"}),
    ({"adam_beta1": 0.8}, {"optimizer": "schedule_free_adamw"}),
    ({"bucket_step": 128}, {"buckets": True}),
    ({"bucket_min_side": 64}, {"buckets": True}),
    ({"bucket_max_side": 256}, {"buckets": True}),
    ({"bucket_max_aspect_ratio": 2.0}, {"buckets": True}),
    ({"keep_tokens": 1}, {"shuffle_tags": True}),
    ({"tag_separator": ";"}, {"shuffle_tags": True}),
    ({"mask_column": "mask"}, {"masks": "files"}),
]


def check_all(module, options):
    """What `main` and a training command check before a model is loaded."""
    module.COMMAND.check(options)
    check(options)
    if module is train:
        check_data(options)


@pytest.mark.parametrize(
    ("idle", "owner"), IDLE, ids=[next(iter(idle)) for idle, _ in IDLE]
)
def test_what_has_no_effect_is_refused(idle, owner):
    other = {"optimizer": "lion"} if "adam_beta1" in idle else {}
    if set(idle) == {"bucket_step"}:
        other = {"buckets": False}
    name, flag = next(iter(idle)), next(iter(owner))
    with pytest.raises(ValueError, match=f"`{name}` has no effect") as caught:
        check_all(train, options_of(**idle, **other))
    assert f"{flag}" in str(caught.value).split("without")[1]
    check_all(train, options_of(**idle, **owner))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "timestep_bias_strategy": "later",
                "timestep_bias_multiplier": 2.0,
                "timestep_bias_begin": 3,
            },
            "`timestep_bias_begin` has no effect",
        ),
        (
            {
                "timestep_bias_strategy": "range",
                "timestep_bias_multiplier": 2.0,
                "timestep_bias_portion": 0.5,
            },
            "`timestep_bias_portion` has no effect",
        ),
        ({"timestep_bias_strategy": "later"}, "changes nothing"),
        ({"timestep_range": [5]}, "two numbers"),
        ({"lr_warmup_steps": 12}, "`lr_warmup_steps` must be less"),
        (
            {"optimizer": "schedule_free_adamw", "lr_scheduler": "cosine"},
            "takes the place of a schedule",
        ),
        (
            {"optimizer": "schedule_free_adamw", "ema_decay": 0.99},
            "keeps an average",
        ),
        ({"weight_decay": -1.0}, "`weight_decay` must be >= 0"),
        ({"snr_gamma": 0.0, "weighting": "min_snr"}, "`snr_gamma` must be"),
        ({"loss": "huber", "huber_delta": 0.0}, "`huber_delta` must be > 0"),
        ({"input_perturbation": -0.1}, "`input_perturbation` must be >= 0"),
        (
            {"train_text_encoder": True, "text_encoder_stop_step": 0},
            "`text_encoder_stop_step` must be >= 1",
        ),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_all(train, options_of(**changes))


def test_contradictions_of_dreambooth():
    with pytest.raises(ValueError, match="`prior_loss_weight` has no effect"):
        check_all(dreambooth, subject_of(prior_loss_weight=0.5))
    given = {"prior_loss_weight": 0.5, "class_prompt": "a photo of dog"}
    check_all(dreambooth, subject_of(**given))
    with pytest.raises(ValueError, match="`num_class_images` must be an int"):
        check_all(dreambooth, subject_of(num_class_images=0))


def test_an_epsilon_model_is_not_asked_for_the_velocity():
    with pytest.raises(ValueError, match="predicts 'epsilon': tiny"):
        check_model(options_of(prediction_type="v_prediction"))
    asked = {"prediction_type": "v_prediction", "change_prediction_type": True}
    assert check_model(options_of(**asked))["resolution"] == 128
    check_model(options_of(prediction_type="epsilon"))


@pytest.mark.parametrize("name", ["min_snr", "p2", "debiased", "constant"])
def test_zero_terminal_snr(name):
    with pytest.raises(ValueError, match="predicts 'epsilon'"):
        check_model(options_of(weighting=name, zero_terminal_snr=True))
    options = options_of(
        weighting=name,
        zero_terminal_snr=True,
        prediction_type="v_prediction",
        change_prediction_type=True,
    )
    if name == "constant":
        check_model(options)
        return
    with pytest.raises(ValueError, match="zero terminal SNR"):
        check_model(options)


def test_gamma_reaches_the_weighting():
    snr = keras_sdft.diffusion.NoiseSchedule().snr
    options = options_of(weighting="min_snr", snr_gamma=1.0)
    np.testing.assert_allclose(
        weighting(options)(snr, "epsilon"), np.minimum(snr, 1.0) / snr
    )
    assert weighting(options_of(weighting="min_snr")) == "min_snr"
    options = options_of(weighting="p2", p2_gamma=0.5)
    np.testing.assert_allclose(
        weighting(options)(snr, "epsilon"), (1.0 + snr) ** -0.5, rtol=1e-6
    )
    assert weighting(options_of(weighting="p2")) == "p2"
