import inspect
import subprocess
import sys

import pytest

from keras_sdft import data
from keras_sdft.data.options import DreamboothLoadOptions
from keras_sdft.data.options import LoadOptions
from keras_sdft.signature import describe


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (data.load, LoadOptions),
        (data.load_dreambooth, DreamboothLoadOptions),
    ],
)
def test_an_option_is_in_signature_and_documentation(function, options):
    parameters = inspect.signature(function).parameters
    texts = describe(options)
    fields = options.__dataclass_fields__
    # Every field of every part has a text, and nothing else does.
    assert set(texts) == set(fields)
    for name, field in fields.items():
        default = parameters[name].default
        if name == "instance_prompt":
            assert default is inspect.Parameter.empty
        else:
            assert default == field.default
        assert f"        {name}: " in function.__doc__
        assert texts[name].endswith(".")
    assert parameters["cache"].default is None
    assert "options" not in parameters and "**options" not in function.__doc__


def test_defaults_are_written_in_the_documentation():
    assert "Images in a batch. Defaults to `4`." in data.load.__doc__
    assert "Images in a batch. Defaults to `1`." in data.load_dreambooth.__doc__


def test_an_option_that_does_not_exist_is_named(tokenizer):
    with pytest.raises(TypeError, match="Did you mean 'horizontal_flip'"):
        data.load("photos", tokenizer, horizontal_flips=True)


def test_options_need_no_tensorflow():
    code = (
        "import sys; from keras_sdft import data; data.ImageOptions(); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
