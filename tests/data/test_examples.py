import numpy as np
import pytest

from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples
from keras_sdft.data.examples import first_five


def test_rows_pick_repeat_and_leave_out():
    records = Columns("/r", ["a", "b", "c"], ["x", ("y", "z"), "w"])
    examples = Examples(records, np.array([2, 0, 1, 1]))
    assert [example.name for example in examples] == ["c", "a", "b", "b"]
    assert examples[3].captions == ("y", "z")
    assert examples[0].image == "/r/c"
    left = examples.without([1])
    assert [example.name for example in left] == ["c", "a"]
    assert len(examples) == 4


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "'0'"), (5, "'0', '1', '2', '3', '4'")],
)
def test_short_lists_are_whole(count, expected):
    assert first_five(str(i) for i in range(count)) == expected


def test_long_lists_are_counted():
    text = first_five(str(i) for i in range(12))
    assert text == "'0', '1', '2', '3', '4' and 7 more"
