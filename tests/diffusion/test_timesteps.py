import math

import numpy as np
import pytest

from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import stratified_timesteps
from keras_sdft.diffusion import timestep_bias
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.diffusion import timestep_probabilities


def test_embedding_by_hand():
    embedding = np.asarray(timestep_embedding(np.array([0, 3]), width=4))
    slow = 10000**-0.5
    expected = [
        [1, 1, 0, 0],
        [math.cos(3), math.cos(3 * slow), math.sin(3), math.sin(3 * slow)],
    ]
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_embedding_needs_an_even_width():
    with pytest.raises(ValueError, match="even"):
        timestep_embedding(np.array([0]), width=5)


def test_samples_cover_the_range_and_nothing_else():
    seed = stateless_seed(0, "timesteps", 0)
    drawn = np.asarray(sample_timesteps(20000, seed, 10))
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    # Four standard deviations of a binomial of 20,000 at 1/10.
    assert abs(counts - 2000).max() < 4 * math.sqrt(20000 * 0.1 * 0.9)


def test_samples_are_a_function_of_seed_and_step():
    def draw(seed, step):
        key = stateless_seed(seed, "timesteps", step)
        return np.asarray(sample_timesteps(8, key)).tolist()

    assert draw(0, 5) == draw(0, 5)
    assert draw(0, 5) != draw(0, 6)
    assert draw(0, 5) != draw(1, 5)


def test_a_range_is_drawn_from_and_nothing_else():
    seed = stateless_seed(0, "timesteps", 0)
    drawn = np.asarray(sample_timesteps(2000, seed, 10, (3, 5)))
    assert sorted(set(drawn.tolist())) == [3, 4]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("earlier", 3.0, 0.2), [3, 3, 1, 1, 1, 1, 1, 1, 1, 1]),
        (("later", 0.5, 0.3), [1, 1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]),
        (("range", 2.0, 0.25, 1, 3), [1, 2, 2, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_biases_by_hand(arguments, expected):
    table = timestep_bias(*arguments, num_train_timesteps=10)
    np.testing.assert_array_equal(table, expected)
    found = timestep_probabilities(table, None, 10)
    np.testing.assert_allclose(found, np.array(expected) / sum(expected))


def test_a_bias_is_followed():
    table = np.array([1.0, 0.0, 3.0, 0.0])
    for bias in (table, lambda num_train_timesteps: table):
        probabilities = timestep_probabilities(bias, None, 4)
        seed = stateless_seed(0, "timesteps", 0)
        drawn = sample_timesteps(20000, seed, 4, None, probabilities)
        counts = np.bincount(np.asarray(drawn), minlength=4)
        assert counts[1] == counts[3] == 0
        # Four standard deviations of a binomial of 20,000 at 1/4.
        assert abs(counts[0] - 5000) < 4 * math.sqrt(20000 * 0.25 * 0.75)


def test_a_bias_stays_in_the_range():
    probabilities = timestep_probabilities(np.ones(10), (2, 4), 10)
    np.testing.assert_allclose(probabilities[[1, 2, 3, 4]], [0, 0.5, 0.5, 0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"where": "late"}, "Did you mean 'later'"),
        ({"where": "later", "multiplier": 0.0}, "multiplier.* > 0"),
        ({"where": "later", "portion": 1.5}, "portion"),
        ({"where": "range", "begin": 5, "end": 2}, "range of timesteps"),
    ],
)
def test_bad_biases_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        timestep_bias(**arguments)


@pytest.mark.parametrize("table", [[1.0, -1.0], [0.0, 0.0], [1.0, np.nan]])
def test_unusable_tables_are_refused(table):
    with pytest.raises(ValueError, match="timestep_bias"):
        timestep_probabilities(np.array(table), None, 2)


@pytest.mark.parametrize("num_strata", [1, 4])
def test_strata_partition_the_schedule(num_strata):
    positions = np.arange(64, dtype="int32")
    for stratum in range(num_strata):
        t = np.asarray(stratified_timesteps(positions, stratum, num_strata))
        low, high = (1000 * (stratum + k) // num_strata for k in (0, 1))
        assert t.min() >= low and t.max() < high
        # 64 points leave no gap wider than a tenth of the stratum.
        gaps = np.diff(np.sort(t))
        assert gaps.max() < (high - low) / 10


def test_strata_depend_on_the_position_only():
    whole = np.asarray(stratified_timesteps(np.arange(6), 1, 4))
    halves = [
        np.asarray(stratified_timesteps(np.arange(a, a + 3), 1, 4))
        for a in (0, 3)
    ]
    assert whole.tolist() == np.concatenate(halves).tolist()
