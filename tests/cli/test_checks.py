"""What is wrong with flags is found before anything is loaded."""

import pytest

from keras_sdft.cli import dreambooth
from keras_sdft.cli import train
from keras_sdft.cli.run import check_training
from keras_sdft.cli.train import Captioned
from tests.cli.options import options_of
from tests.cli.options import subject_of

V_PREDICTION = {
    "prediction_type": "v_prediction",
    "change_prediction_type": True,
}


def check_all(module, options, photos):
    """What `main` and a training command check before a model is loaded."""
    module.COMMAND.check(options)
    check_training(options)
    if module is train:
        Captioned.check(options.replace(data=str(photos)), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # One of each group.
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1"),
        ({"resolution": 100}, "`resolution` must be .* Nearest valid: 128"),
        ({"max_train_steps": None}, "exactly one of `max_train_steps`"),
        ({"ema_decay": 1.0}, "`ema_decay` must be"),
        ({"huber_delta": 0.5}, "`huber_delta` has no effect without `loss"),
        ({"timestep_range": (5,)}, "`timestep_range` must be two integers"),
        ({"lr_power": 2.0}, "`lr_power` has no effect without"),
        ({"text_encoder_stop_step": 5}, "no effect without `train_text_enc"),
        ({"bucket_step": 128}, "`bucket_step` has no effect without `buckets"),
        ({"keep_tokens": 1}, "`keep_tokens` has no effect without `shuffle"),
        ({"preview_num_steps": 0}, "`preview_num_steps` must be an integer"),
        ({"validation_every_epochs": 0}, "`validation_every_epochs` must be"),
        ({"no_cache": True, "cache": "c"}, "`cache` has no effect with `no_c"),
        # Between groups.
        ({"mask_column": "mask"}, "`mask_column` has no effect without"),
        ({"lr_warmup_steps": 12}, "`lr_warmup_steps` must be less"),
        (
            {"optimizer": "schedule_free_adamw", "ema_decay": 0.99},
            "keeps an average",
        ),
        # Against the model.
        ({"prediction_type": "v_prediction"}, "weights predict 'epsilon'"),
        ({"zero_terminal_snr": True}, "cannot be used with `prediction_type"),
        (
            V_PREDICTION | {"zero_terminal_snr": True, "weighting": "p2"},
            "zero terminal SNR",
        ),
        ({"model": "tinny"}, "Did you mean 'tiny'"),
    ],
)
def test_mistakes_are_refused(changes, message, photos):
    with pytest.raises(ValueError, match=message):
        check_all(train, options_of(**changes), photos)


def test_what_has_an_effect_passes(photos):
    changes = {
        "loss": "huber",
        "huber_delta": 0.5,
        "lr_scheduler": "polynomial",
        "lr_power": 2.0,
        "train_text_encoder": True,
        "text_encoder_stop_step": 5,
        "masks": "files",
        "mask_column": "mask",
        "zero_terminal_snr": True,
        "timestep_range": (0, 500),
    }
    check_all(train, options_of(**V_PREDICTION, **changes), photos)


def test_mistakes_of_dreambooth(photos):
    with pytest.raises(ValueError, match="`prior_loss_weight` has no effect"):
        check_all(dreambooth, subject_of(prior_loss_weight=0.5), photos)
    given = {"prior_loss_weight": 0.5, "class_prompt": "a photo of dog"}
    check_all(dreambooth, subject_of(**given), photos)
    with pytest.raises(ValueError, match="`num_class_images` must be an int"):
        check_all(dreambooth, subject_of(num_class_images=0), photos)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`data` does not exist: /"):
        Captioned.check(options_of(data="nowhere"), {})
    options = options_of(data=str(tmp_path), validation_data="nowhere")
    with pytest.raises(FileNotFoundError, match="`validation_data` does not"):
        Captioned.check(options, {})
    Captioned.check(options_of(data="tfds:mnist"), {})
