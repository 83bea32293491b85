import pytest

from keras_sdft.data import check_dreambooth_prompts
from keras_sdft.data import fill_prompt


@pytest.mark.parametrize(
    "template",
    [
        "a photo of {token} {class}",
        "a photo of [token] [class noun]",
        "a photo of [V] [class]",
        "a photo of  [identifier] {CLASS}",
    ],
)
def test_templates_give_both_prompts(template):
    assert fill_prompt(template, "sks", "dog") == "a photo of sks dog"
    assert fill_prompt(template, "", "dog") == "a photo of dog"


def test_plain_text_is_left_as_it_is():
    assert fill_prompt("a photo of dog", "sks", "dog") == "a photo of dog"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a {tokn} {class}", "'{tokn}'.*Did you mean '{token}'"),
        ("a [class nuon]", r"Did you mean '\[class noun\]'"),
    ],
)
def test_unknown_fields_name_the_nearest(template, words):
    with pytest.raises(ValueError, match=words):
        fill_prompt(template, "sks", "dog")


def test_a_class_field_needs_a_class():
    with pytest.raises(ValueError, match="no class was given"):
        fill_prompt("a photo of {token} {class}", "sks")


@pytest.mark.parametrize(
    ("prompts", "token", "expected"),
    [
        (("a photo of sks dog", "a photo of dog"), None, "sks"),
        (("a photo of sks dog", "a photo of dog"), "sks", "sks"),
        (("A photo of SKS dog.", "a photo of a dog"), None, "sks"),
        (("photo of a red ohwx man", "photo of a man"), None, "red"),
        (("a photo of sks dog", None), None, None),
        (("a photo of <*> dog", None), "<*>", "<*>"),
        (("a photo of Bob Smith", "a person"), "bob smith", "bob smith"),
    ],
)
def test_good_prompts(prompts, token, expected):
    assert check_dreambooth_prompts(*prompts, token) == expected


@pytest.mark.parametrize(
    ("prompts", "token", "words"),
    [
        (("a photo of dog", "a photo of dog"), None, "rare token"),
        (("a dog", "a photo of a dog"), None, "every word of it"),
        (("a photo of a dog", "a photo of dog"), "sks", "token='sks'"),
        (("asks dog", "a dog"), "sks", "must hold the subject's token"),
        (("sks dog", "a sks dog"), "sks", "`class_prompt` must not hold"),
        (("", "a dog"), None, "`instance_prompt`.*not empty"),
        (("sks dog", " "), None, "`class_prompt`.*not empty"),
        ((None, "a dog"), None, "`instance_prompt`"),
        (("a {token} dog", "a dog"), None, "template.*fill_prompt"),
        (("sks dog", "a [class noun]"), None, "`class_prompt` is a template"),
    ],
)
def test_bad_prompts_are_refused_by_name(prompts, token, words):
    with pytest.raises(ValueError, match=words):
        check_dreambooth_prompts(*prompts, token)
