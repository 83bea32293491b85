import glob
import os
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft.callbacks import Previews
from keras_sdft.callbacks.previews import _tags
from keras_sdft.models import PRESETS
from keras_sdft.models import NonFiniteImage


def names(directory):
    return sorted(os.listdir(directory))


def test_grids_at_start_every_steps_and_end(trainer, batches, tmp_path):
    previews = Previews(["a", "b"], tmp_path / "p", every_steps=3, seed=7)
    trainer.fit(batches, epochs=2, verbose=0, callbacks=[previews])
    assert names(tmp_path / "p") == [
        "before_and_after.png",
        "step_000000.png",
        "step_000003.png",
        "step_000006.png",
        "step_000008.png",
    ]
    prompts = [prompt for prompt, _ in trainer.stable_diffusion.calls]
    assert prompts == ["a", "b"] * 4


def test_grids_every_epochs_are_not_drawn_twice(trainer, batches, tmp_path):
    previews = Previews("a", tmp_path, every_epochs=2)
    trainer.fit(batches, epochs=4, verbose=0, callbacks=[previews])
    assert names(tmp_path) == [
        "before_and_after.png",
        "step_000000.png",
        "step_000008.png",
        "step_000016.png",
    ]
    assert len(trainer.stable_diffusion.calls) == 3


def test_a_signal_after_the_last_step_puts_the_last_grid_off(
    trainer, batches, tmp_path
):
    previews = Previews("a", tmp_path, every_steps=3)
    trainer.progress.interruption = types.SimpleNamespace(signal=None)

    class Send(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trainer.progress.interruption.signal = 15

    trainer.fit(batches, verbose=0, callbacks=[Send(), previews])
    assert names(tmp_path) == ["step_000000.png", "step_000003.png"]
    assert [previews.complete() for _ in range(2)] == [True, False]
    assert len(trainer.stable_diffusion.calls) == 3
    assert names(tmp_path)[0] == "before_and_after.png"
    assert names(tmp_path)[-1] == "step_000004.png"


def test_the_model_is_asked_with_averaged_weights(trainer, batches, tmp_path):
    previews = Previews(
        ["a", "b"],
        tmp_path,
        every_steps=100,
        num_steps=4,
        guidance_scale=3,
        seed=5,
    )
    trainer.fit(batches, verbose=0, callbacks=[previews])
    expected = {
        "batch_size": 1,
        "num_steps": 4,
        "guidance_scale": 3.0,
        "averaged": True,
    }
    calls = trainer.stable_diffusion.calls
    assert calls[0] == ("a", expected | {"seed": 5})
    assert calls[1] == ("b", expected | {"seed": 6})
    assert calls[2:] == calls[:2]
    assert not trainer.averaged


def test_steps_and_guidance_default_to_the_models_own(
    trainer, batches, tmp_path
):
    model = trainer.stable_diffusion
    for name in ("sd1.4", "tiny"):
        model.spec = PRESETS[name].spec
        previews = Previews("a", tmp_path / name, every_steps=100)
        trainer.fit(batches, verbose=0, callbacks=[previews])
    found = [(c["num_steps"], c["guidance_scale"]) for _, c in model.calls]
    # 25 steps at most.
    assert found == [(25, 7.5)] * 2 + [(25, 5.0)] * 2


def test_the_grid_has_one_row_per_prompt(trainer, batches, tmp_path):
    previews = Previews(["a", "b"], tmp_path, every_epochs=1, seed=5)
    trainer.fit(batches, verbose=0, callbacks=[previews])
    with Image.open(tmp_path / "step_000004.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * 16 + 2, 160 + 24, 3)
    assert pixels[0, -1].tolist() == [5, 0, 0]
    assert pixels[-1, -1].tolist() == [6, 0, 0]


def test_first_and_last_stand_above_each_other(trainer, batches, tmp_path):
    prompts = [str(number) for number in range(9)]
    previews = Previews(prompts, tmp_path, every_epochs=1, seed=5)
    trainer.fit(batches, verbose=0, callbacks=[previews])
    with Image.open(previews.before_and_after) as image:
        pixels = np.asarray(image)
    # Four columns, two more such pairs under them; 24 x 16 pixels each.
    pair = 44 + 2 * 16 + 2
    assert pixels.shape == (3 * pair + 2 * 2, 64 + 4 * 26 - 2, 3)
    for row in (44, 44 + 18):
        assert pixels[row, 64].tolist() == [5, 0, 0]
        assert pixels[row, 64 + 3 * 26].tolist() == [8, 0, 0]
    assert pixels[pair + 2 + 44, 64].tolist() == [9, 0, 0]
    assert pixels[2 * (pair + 2) + 44, 64].tolist() == [13, 0, 0]


def test_tensorboard_receives_the_images(trainer, batches, tmp_path):
    previews = Previews(
        ["a", "b"],
        tmp_path / "p",
        every_steps=2,
        tensorboard_directory=tmp_path / "logs",
    )
    trainer.fit(batches, verbose=0, callbacks=[previews])
    seen = []
    for path in glob.glob(str(tmp_path / "logs" / "*")):
        for event in tf.compat.v1.train.summary_iterator(path):
            seen += [(event.step, v.tag) for v in event.summary.value]
    expected = [(s, f"images/{p}") for s in (0, 2, 4) for p in "ab"]
    assert sorted(seen) == expected


def test_prompts_that_begin_alike_have_tags_of_their_own():
    long = "a" * 100
    assert _tags(["a dog", long]) == ["images/a dog", "images/" + "a" * 80]
    assert _tags([long + "x", long + "y"])[1] == "images/1 " + "a" * 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every_steps": None}, "exactly one of"),
        ({"every_epochs": 1}, "exactly one of"),
        ({"every_steps": 0}, "every_steps"),
        ({"every_steps": 2.5}, "every_steps"),
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a", 3]}, "prompts"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 1001}, "num_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, changes, message):
    arguments = {"prompts": "a", "directory": tmp_path, "every_steps": 1}
    with pytest.raises(ValueError, match=message):
        Previews(**(arguments | changes))


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(NotADirectoryError, match="Received a file"):
        Previews("a", path, every_steps=1)
    assert path.read_text() == "mine"


def test_an_image_that_is_not_finite_ends_no_training(
    trainer, batches, tmp_path
):
    def text_to_image(prompt, **arguments):
        raise NonFiniteImage("latents")

    trainer.stable_diffusion.text_to_image = text_to_image
    trainer.stable_diffusion.img_height = 16
    trainer.stable_diffusion.img_width = 24
    previews = Previews("a", tmp_path, every_epochs=1)
    with pytest.warns(UserWarning, match="step 0 is left black .'a'.*bfloat16"):
        trainer.fit(batches, verbose=0, callbacks=[previews])
    with Image.open(tmp_path / "step_000004.png") as image:
        assert np.asarray(image)[-16:, -24:].max() == 0
