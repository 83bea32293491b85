"""LoRA files in a model: several at once, switched, merged and refused."""

import numpy as np
import pytest

from keras_sdft import adapters
from keras_sdft.training import Trainer
from tests.adapters.test_lora import difference
from tests.adapters.test_lora import outputs
from tests.adapters.test_lora import randomize


@pytest.fixture(scope="module")
def files(make_micro, tmp_path_factory):
    """Two LoRAs of micro models, one in each layout."""
    directory = tmp_path_factory.mktemp("loras")
    for name, dialect in (("one", "diffusers"), ("two", "kohya")):
        lora = adapters.LoRA(2, text_encoder=True, seed=len(dialect))
        lora.attach(make_micro())
        randomize(lora)
        lora.save(directory / f"{name}.safetensors", dialect)
    return directory


def test_several_at_once_are_switched_merged_and_unloaded(make_micro, files):
    sd = make_micro()
    base = outputs(sd)
    assert sd.load_adapter(files / "one.safetensors", 0.5) == "one"
    half = outputs(sd)
    sd.load_adapter(files / "two.safetensors", name="other")
    both = outputs(sd)
    assert difference(both, half) > 1e-3 < difference(half, base)
    sd.set_adapters({"one": 0.5})
    assert difference(outputs(sd), half) < 1e-6
    sd.set_adapters({"one": 0.5, "other": 1.0})
    sd.unload_adapters("one")
    with pytest.raises(ValueError, match="No adapter 'one' is loaded"):
        sd.set_adapters({"one": 1.0})
    sd.load_adapter(files / "one.safetensors", 0.5)
    sd.merge_adapters(["other"])
    assert difference(outputs(sd), both) < 1e-5
    # What is merged is the base from now on.
    sd.unload_adapters()
    assert not sd.has_adapters
    assert difference(outputs(sd), base) > 1e-3


def test_what_cannot_be_loaded_or_set_is_named(make_micro, files):
    sd = make_micro()
    one = files / "one.safetensors"
    with pytest.raises(ValueError, match="`scale` must be a finite number"):
        sd.load_adapter(one, scale="strong")
    assert not sd.has_adapters
    sd.load_adapter(one)
    with pytest.raises(ValueError, match="'one' is loaded already"):
        sd.load_adapter(one)
    with pytest.raises(ValueError, match="Did you mean 'one'"):
        sd.set_adapters({"onee": 1.0})
    with pytest.raises(ValueError, match="must be a finite number"):
        sd.set_adapters({"one": np.nan})


def test_a_new_word_that_no_caption_has_is_refused(make_micro, make_dataset):
    word = adapters.TextualInversion("<new>", init="cat")
    trainer = Trainer(make_micro(), train=word)
    trainer.compile(run_eagerly=True)
    with pytest.raises(ValueError, match="None of the first captions"):
        trainer.fit(make_dataset(1), verbose=0)


def test_a_lora_of_the_hub(make_micro, files, tmp_path, hub_server):
    hub_server.repos["models/me/style"] = files
    sd = make_micro()
    assert sd.load_adapter("hf://me/style/one.safetensors", 0.5) == "one"
    with pytest.raises(ValueError, match="2 files of weights. Name one"):
        sd.load_adapter("hf://me/style")
    options = adapters.AdapterFileOptions(
        lora=["hf://me/style/two.safetensors:0.8"]
    )
    options.load_into(sd)
    assert float(sd.adapters.loras[options.lora[0]].strength) == (
        pytest.approx(0.8)
    )
