import numpy as np
import pytest

from keras_sdft.data import Example
from keras_sdft.data import Report
from keras_sdft.data import read_examples
from keras_sdft.data.batches import batched
from keras_sdft.data.buckets import assign
from keras_sdft.data.captions import CaptionTokens
from keras_sdft.data.dreambooth import with_class_examples
from keras_sdft.data.epochs import EpochPlan
from keras_sdft.data.epochs import EpochRows
from keras_sdft.data.epochs import PriorPlan
from keras_sdft.data.epochs import Row
from keras_sdft.data.example_builder import ExampleBuilder
from keras_sdft.data.options import LoadOptions


@pytest.fixture
def examples():
    """Five pictures of noise with masks of noise, three of them wide."""
    draws = np.random.default_rng(0)
    found = []
    for index in range(5):
        shape = (90, 100) if index < 2 else (90, 160)
        found.append(
            Example(
                draws.integers(0, 256, (*shape, 3), np.uint8),
                (f"a{index}, b, c, d, e", f"x{index}"),
                mask=draws.integers(0, 256, shape, np.uint8),
            )
        )
    return read_examples(found)


@pytest.fixture
def make_parts(examples, tokenizer):
    """The plan and the maker of a data set with everything switched on."""

    def make(prior=False, **changed):
        chosen = {
            "resolution": 256,
            "batch_size": 2,
            "crop": "random",
            "horizontal_flip": True,
            "caption_template": ["a {caption}", "the {caption}"],
            "caption_dropout": 0.2,
            "shuffle_tags": True,
            "keep_tokens": 1,
            "masks": "files",
            "buckets": True,
            **changed,
        }
        options = LoadOptions(**chosen)
        assignment = assign(examples, options)
        plan = EpochPlan(assignment.bucket_of, options)
        both, first_class = examples, None
        if prior:
            first_class = len(examples)
            both = with_class_examples(examples, examples, "class", 0.5)
            plan = PriorPlan(plan, 5)
        maker = ExampleBuilder(
            examples=both,
            tokens=CaptionTokens(tokenizer),
            sizes=assignment.sizes,
            options=options,
            report=Report(),
            first_class=first_class,
            weight=plan.weight,
        )
        return plan, maker, options

    return make


@pytest.mark.parametrize("prior", [False, True])
def test_inside_dataset_map_as_eagerly(make_parts, prior):
    plan, maker, options = make_parts(prior)
    size = 4 if prior else 2
    dataset = batched(EpochRows(plan), maker, options.repeat)
    assert tuple(dataset.element_spec) == maker.keys
    for epoch in range(2):
        rows = EpochRows(plan)(epoch).reshape(-1, size, 6)
        for batch, own in zip(dataset, rows, strict=True):
            made = zip(*[maker(row) for row in own], strict=True)
            for key, values in zip(maker.keys, made, strict=True):
                expected = np.stack(values)
                if key == "images":
                    expected = expected.astype(np.float32) / 127.5 - 1.0
                np.testing.assert_allclose(
                    batch[key].numpy(), expected, atol=1e-6
                )


def test_an_example_depends_on_its_row_alone(make_parts):
    plan, maker, _ = make_parts()
    rows = EpochRows(plan)(3)
    first = [maker(row) for row in rows]
    again = [maker(row) for row in rows[::-1]][::-1]
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_copy_is_another_view_of_its_example(make_parts):
    _, maker, _ = make_parts(caption_dropout=0.0)
    row = Row(example=3, epoch=0, bucket=1, copy=0, copies=2)
    first = maker(np.array(row))
    second = maker(np.array(row._replace(copy=1)))
    assert not np.array_equal(first[0], second[0])
    assert first[2] == second[2]
    alone = maker(np.array(row._replace(copies=1)))
    assert alone[2] == pytest.approx(2 * first[2])


def test_weights_of_class_images_are_not_scaled(make_parts):
    plan, maker, _ = make_parts(prior=True)
    # Two and three examples fill six places.
    assert plan.weight == pytest.approx(6 / 5)
    photo = maker(np.array(Row(0, 0, 0, 0, 1)))
    of_class = maker(np.array(Row(5, 0, 0, 0, 1)))
    weight = maker.keys.index("example_weight")
    prior = maker.keys.index("prior")
    assert photo[weight] == pytest.approx(2 * 6 / 5) and photo[prior] == 0
    assert of_class[weight] == pytest.approx(2 * 0.5) and of_class[prior] == 1
