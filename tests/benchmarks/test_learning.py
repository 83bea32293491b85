import numpy as np

from benchmarks import learning


def test_table_has_a_ratio_to_the_first_model_for_each_run():
    table = learning.table(
        {
            "tiny": {"seen_ink_top1": 0.5, "seen_ink_ink_share": 0.0},
            "runs/a": {"seen_ink_top1": 0.25, "seen_ink_ink_share": 0.9},
            "runs/b": {"seen_ink_top1": 1.0, "seen_ink_ink_share": 0.8},
        }
    )

    assert table.splitlines() == [
        "|  | tiny | runs/a | ratio | runs/b | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
        "| seen_ink_top1 | 0.500 | 0.250 | 0.50 | 1.000 | 2.00 |",
        "| seen_ink_ink_share | 0.000 | 0.900 |  | 0.800 |  |",
    ]


def test_spread_is_zero_for_one_image_repeated_and_grows_with_differences():
    images = np.zeros((4, 16, 16, 3), "uint8")
    assert learning.spread(images) == 0.0
    images[0] = 100
    few = learning.spread(images)
    images[1] = 50
    assert 0.0 < few < learning.spread(images)
