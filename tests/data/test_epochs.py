import numpy as np
import pytest

from keras_sdft.data.epochs import EpochPlan
from keras_sdft.data.epochs import PriorPlan
from keras_sdft.data.options import LoadOptions

# 7 examples in bucket 0, 3 in bucket 1, 1 in bucket 2.
BUCKET_OF = np.array([0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0])


def make_plan(bucket_of=BUCKET_OF, **options):
    options = {"batch_size": 4, "seed": 3, "buckets": True, **options}
    return EpochPlan(np.asarray(bucket_of), LoadOptions(**options))


def weights_of(rows, count):
    """What each example weighs in an epoch, all its copies together."""
    weights = np.zeros(count)
    np.add.at(weights, rows[:, 0], 1 / rows[:, 4])
    return weights


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_filled_batches_hold_one_bucket_and_lose_nothing(shuffle, epoch):
    plan = make_plan(shuffle=shuffle)
    rows = plan(epoch)
    # 8 + 4 + 4 places.
    assert plan.length == 16 and rows.shape == (16, 5)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows[:, 2], BUCKET_OF[rows[:, 0]])
    for batch in rows.reshape(4, 4, 5):
        assert len(set(batch[:, 2])) == 1
    np.testing.assert_allclose(weights_of(rows, 11), 1)
    assert (rows[:, 1] == epoch).all()


def test_copies_are_counted_and_numbered():
    rows = make_plan([0], batch_size=4)(0)
    assert rows.tolist() == [
        [0, 0, 0, 0, 4],
        [0, 0, 0, 1, 4],
        [0, 0, 0, 2, 4],
        [0, 0, 0, 3, 4],
    ]
    rows = make_plan([0, 0, 0], batch_size=4, shuffle=False)(0)
    assert rows[:, 0].tolist() == [0, 1, 2, 0]
    assert rows[:, 3].tolist() == [0, 0, 0, 1]
    assert rows[:, 4].tolist() == [2, 1, 1, 2]


def test_the_mean_of_the_batches_losses_is_the_mean_over_examples():
    plan = make_plan()
    losses = np.random.default_rng(0).random(11)
    rows = plan(0)
    weighted = losses[rows[:, 0]] * plan.weight / rows[:, 4]
    assert plan.weight == pytest.approx(16 / 11)
    per_batch = weighted.reshape(4, 4).mean(axis=1)
    assert per_batch.mean() == pytest.approx(losses.mean())


def test_nothing_is_filled_where_batches_are_full():
    plan = make_plan([0, 1, 1, 0], batch_size=2)
    rows = plan(0)
    assert plan.weight == 1.0 and plan.length == 4
    assert (rows[:, 3] == 0).all() and (rows[:, 4] == 1).all()


def test_orders_are_functions_of_seed_and_epoch():
    first, again = make_plan(), make_plan()
    for epoch in (4, 0):
        np.testing.assert_array_equal(first(epoch), again(epoch))
    assert not np.array_equal(first(0), first(1))
    assert not np.array_equal(first(0), make_plan(seed=4)(0))


def test_batches_of_buckets_change_places():
    plan = make_plan(np.arange(64) % 4, batch_size=4)
    orders = {tuple(plan(epoch)[::4, 2]) for epoch in range(10)}
    assert len(orders) > 5


def test_without_shuffling_batches_stand_by_their_first_example():
    rows = make_plan(shuffle=False)(0)
    assert rows[::4, 0].tolist() == [0, 1, 6, 7]
    assert rows[:4, 0].tolist() == [0, 2, 3, 5]
    assert rows[12:, 0].tolist() == [7, 9, 10, 0]


def test_every_bucket_is_in_every_epoch():
    plan = make_plan()
    for epoch in range(5):
        assert set(plan(epoch)[:, 2]) == {0, 1, 2}


def test_dropped_remainders_are_others_in_other_epochs():
    plan = make_plan(drop_remainder=True, batch_size=2)
    # 6 + 2 + 0 places.
    assert plan.length == 8 and plan.weight == 1.0
    missed = set()
    for epoch in range(30):
        rows = plan(epoch)
        assert len(set(rows[:, 0])) == 8
        missed |= set(range(11)) - set(rows[:, 0])
    assert missed == set(range(11))


def test_padding_counts_nothing():
    plan = make_plan(np.zeros(10, int), buckets=False)
    assert plan.length == 12 and plan.weight == 1.0
    rows = plan(0)
    assert sorted(rows[:10, 0]) == list(range(10))
    assert rows[:, 4].tolist() == [1] * 10 + [0] * 2


def make_prior(num_classes=3, **options):
    return PriorPlan(make_plan([0] * 5, batch_size=2, **options), num_classes)


def test_instances_and_class_images_take_turns():
    plan = make_prior()
    rows = plan(0)
    assert plan.length == 12 and plan.weight == pytest.approx(6 / 5)
    assert (rows[0::2, 0] < 5).all() and (rows[1::2, 0] >= 5).all()
    np.testing.assert_array_equal(rows[0::2, 2], rows[1::2, 2])
    assert (rows[1::2, 4] == 1).all()


def test_class_images_go_round_over_the_ends_of_epochs():
    plan = make_prior(num_classes=7)
    shown = np.concatenate([plan(epoch)[1::2] for epoch in range(7)])
    # 7 epochs of 6 places: each of 7 class images 6 times.
    rounds = shown.reshape(6, 7, 5)
    for number, one in enumerate(rounds):
        assert sorted(one[:, 0]) == list(range(5, 12))
        # The round is what their draws depend on, so no two are alike.
        assert (one[:, 1] == number).all()
    assert len({tuple(one[:, 0]) for one in rounds}) > 1


def test_a_later_epoch_is_made_without_those_before_it():
    np.testing.assert_array_equal(make_prior()(9), make_prior()(9))


def test_class_images_in_order_without_shuffling():
    rows = make_prior(num_classes=4, shuffle=False)(1)
    assert rows[1::2, 0].tolist() == [7, 8, 5, 6, 7, 8]
    assert rows[1::2, 1].tolist() == [1, 1, 2, 2, 2, 2]
