import numpy as np

from keras_sdft.data.examples import Columns
from keras_sdft.data.examples import Examples


def test_rows_pick_repeat_and_leave_out():
    records = Columns("/r", ["a", "b", "c"], ["x", ("y", "z"), "w"])
    examples = Examples(records, np.array([2, 0, 1, 1]))
    assert [example.name for example in examples] == ["c", "a", "b", "b"]
    assert examples[3].captions == ("y", "z")
    assert examples[0].image == "/r/c"
    left = examples.without([1])
    assert [example.name for example in left] == ["c", "a"]
    assert len(examples) == 4
