import gc
import weakref

import numpy as np
import pytest

from keras_sdft.models import StableDiffusion


def test_sources_change_with_what_is_loaded(make_micro):
    model = make_micro()
    sources = model.encoder_sources()
    assert set(sources) == {"image_encoder", "text_encoder"}
    assert make_micro().encoder_sources() == sources
    assert make_micro(dtype="mixed_bfloat16").encoder_sources() != sources
    tiny = StableDiffusion.from_preset("tiny").encoder_sources()
    assert tiny["image_encoder"].startswith("packaged ")
    assert tiny["image_encoder"] != tiny["text_encoder"]


def test_a_file_is_known_by_size_and_time(make_micro, tmp_path):
    path = tmp_path / "text_encoder.weights.h5"
    path.write_bytes(b"weights")
    sources = make_micro(files={"text_encoder": path}).encoder_sources()
    assert f"{path}, 7 bytes of " in sources["text_encoder"]
    assert "drawn from seed 0" in sources["image_encoder"]


def test_weights_in_memory_have_no_source(make_micro):
    model = make_micro()
    _ = model.text_encoder
    assert set(model.encoder_sources()) == {"image_encoder"}


def test_what_is_released_is_gone_and_comes_back(make_micro):
    model = make_micro()
    image = np.zeros((1, 64, 64, 3), np.float32)
    moments = model.moments_model.predict_on_batch(image)
    context = model.encode_text("a heart")
    held = [
        weakref.ref(part)
        for part in (
            model.moments_model,
            model.image_encoder,
            model.text_encoder,
        )
    ]
    model.release(["image_encoder", "text_encoder"])
    gc.collect()
    assert [part() for part in held] == [None] * 3
    np.testing.assert_array_equal(context, model.encode_text("a heart"))
    again = model.moments_model.predict_on_batch(image)
    np.testing.assert_array_equal(moments, again)


def test_what_learns_is_not_released(make_micro):
    model = make_micro()
    model.trained_parts.add("text_encoder")
    with pytest.raises(ValueError, match="'text_encoder' is being trained"):
        model.release(["text_encoder"])
    with pytest.raises(ValueError, match="must be one of .*'decoder'"):
        model.release(["decoder"])
