"""What models, trainers and data tell of themselves."""

import re

import pytest

import keras_sdft
from keras_sdft import adapters
from keras_sdft import data
from keras_sdft import reprs


@pytest.fixture
def dataset(make_micro, tmp_path):
    from PIL import Image

    for number in range(5):
        image = Image.new("RGB", (96, 64), (50 * number, 0, 0))
        image.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"<b> {number}")
    (tmp_path / "4.png").write_bytes(b"no image")
    return data.load(
        str(tmp_path),
        make_micro().tokenizer,
        resolution=64,
        batch_size=2,
        max_unreadable=0.5,
    )


def test_a_dataset_tells_its_batches_and_its_source(dataset, tmp_path):
    lines = repr(dataset).splitlines()
    assert lines[:3] == [
        "Captioned images",
        "  batches   2 an epoch, of 2",
        "  each      images (2, 64, 64, 3) float32, token_ids (2, 77) int32, "
        "example_weight (2,) float32",
    ]
    assert lines[3].startswith(
        f"  source 1  {tmp_path}: 5 images found, 4 used; left out: 1 "
    )
    # As TensorFlow's own, in all else.
    assert len(list(dataset)) == 2 and len(list(dataset.take(1))) == 1


def test_a_notebook_shows_images_with_their_captions(dataset):
    text = dataset._repr_html_()
    assert text.count('src="data:image/webp;base64,') == 4
    assert "&lt;b&gt; 3" in text and "<b>" not in text
    assert text.startswith("<pre>Captioned images\n")


def test_a_model_tells_what_is_in_it(make_micro):
    sd = make_micro()
    text = repr(sd)
    assert text.startswith("StableDiffusion 'micro'\n  images ")
    count = sd.diffusion_model.count_params()
    assert f"diffusion_model ({count:,} weights)" in repr(sd)
    fresh = keras_sdft.StableDiffusion.from_preset("tiny")
    assert "in memory  no network yet" in repr(fresh)
    assert "128 x 128 pixels" in repr(fresh) and "adapters" not in repr(fresh)


def test_a_trainer_and_its_estimate_tell_what_they_are(
    make_micro, make_dataset, tmp_path
):
    lora = adapters.LoRA(2)
    trainer = keras_sdft.Trainer(make_micro(), train=[lora])
    assert "optimizer      none yet: call `compile()`" in repr(trainer)
    trainer.compile(run_eagerly=True)
    count = sum(v.numpy().size for v in trainer.trainable_variables)
    assert repr(trainer).splitlines() == [
        "Trainer of 'micro'",
        f"  trains         lora ({count:,} weights)",
        "  towards        epsilon",
        "  optimizer      AdamW, learning rate 1e-05",
        "  micro-batches  1",
        "  step           0",
    ]
    lora.save(tmp_path / "mine.safetensors")
    other = make_micro()
    other.load_adapter(tmp_path / "mine.safetensors", 0.8)
    assert "adapters   mine x 0.8" in repr(other)
    estimate = trainer.memory_estimate(make_dataset(1).element_spec)
    assert repr(estimate) == str(estimate)
    assert re.search(r"in all +\d+\.\d\d GB$", repr(estimate))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "'0'"),
        (5, "'0', '1', '2', '3', '4'"),
        (12, "'0', '1', '2', '3', '4' and 7 more"),
    ],
)
def test_of_many_names_five_are_shown(count, expected):
    assert reprs.first_five(str(i) for i in range(count)) == expected
