import numpy as np
import pytest

from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.training import Noise
from keras_sdft.training.noise_sampler import NoiseSampler

SHAPE = (4, 8, 8, 4)


def sampler(seed=0, **options):
    return NoiseSampler(Noise(**options), seed, 1000)


def as_arrays(tensors):
    return {name: np.asarray(value) for name, value in tensors.items()}


def test_without_options_the_numbers_are_the_plain_ones():
    found = as_arrays(sampler(seed=7)(SHAPE, 3))
    assert set(found) == {"timesteps", "noise", "latent_noise", "share"}
    for name, stream in (("noise", "noise"), ("latent_noise", "latents")):
        expected = gaussian(SHAPE, stateless_seed(7, stream, 3))
        np.testing.assert_array_equal(found[name], expected)
    expected = sample_timesteps(4, stateless_seed(7, "timesteps", 3))
    np.testing.assert_array_equal(found["timesteps"], expected)
    np.testing.assert_array_equal(found["share"], 0.25)


@pytest.mark.parametrize(
    "options, changed",
    [
        ({"offset_noise": 0.1}, {"noise"}),
        ({"multires_noise_iterations": 3}, {"noise"}),
        ({"input_perturbation": 0.1}, {"input_noise"}),
        ({"timestep_range": (0, 10)}, {"timesteps"}),
        ({"timestep_bias_strategy": np.arange(1000)}, {"timesteps"}),
    ],
)
def test_an_option_leaves_the_other_numbers_alone(options, changed):
    plain = as_arrays(sampler()(SHAPE, 3))
    found = as_arrays(sampler(**options)(SHAPE, 3))
    for name, value in found.items():
        same = name in plain and (plain[name] == value).all()
        assert same == (name not in changed)


@pytest.mark.parametrize(
    "options",
    [
        {"offset_noise": 0.1, "multires_noise_iterations": 3},
        {"input_perturbation": 0.1, "timestep_bias_strategy": np.arange(1000)},
    ],
)
def test_numbers_are_a_function_of_seed_and_step(options):
    sample = sampler(seed=1, **options)
    first, again = (as_arrays(sample(SHAPE, 5)) for _ in range(2))
    later = as_arrays(sample(SHAPE, 6))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert name == "share" or (first[name] != later[name]).any()
