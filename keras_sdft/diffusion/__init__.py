"""The mathematics of diffusion: tables and pure functions of tensors.

This package knows latents, noise and timesteps. It must not know images,
captions, networks, files or optimizers, and imports no other package.
"""

from keras_sdft.diffusion.noise import StatelessSeed
from keras_sdft.diffusion.noise import add_multires_noise
from keras_sdft.diffusion.noise import add_offset_noise
from keras_sdft.diffusion.noise import gaussian
from keras_sdft.diffusion.noise import perturb_noise
from keras_sdft.diffusion.noise import stateless_seed
from keras_sdft.diffusion.noise_schedule import NoiseSchedule
from keras_sdft.diffusion.noise_schedule import rescale_to_zero_terminal_snr
from keras_sdft.diffusion.noise_schedule import scaled_linear_betas
from keras_sdft.diffusion.prediction import PREDICTION_TYPES
from keras_sdft.diffusion.prediction import check_prediction_type
from keras_sdft.diffusion.prediction import prediction_target
from keras_sdft.diffusion.prediction import split_prediction
from keras_sdft.diffusion.sampling import SAMPLERS
from keras_sdft.diffusion.sampling import SPACINGS
from keras_sdft.diffusion.sampling import ddim
from keras_sdft.diffusion.sampling import dpmpp_2m
from keras_sdft.diffusion.sampling import sample
from keras_sdft.diffusion.sampling import sampling_timesteps
from keras_sdft.diffusion.timesteps import check_timestep_range
from keras_sdft.diffusion.timesteps import sample_timesteps
from keras_sdft.diffusion.timesteps import stratified_timesteps
from keras_sdft.diffusion.timesteps import timestep_bias
from keras_sdft.diffusion.timesteps import timestep_embedding
from keras_sdft.diffusion.timesteps import timestep_probabilities
from keras_sdft.diffusion.weighting import constant
from keras_sdft.diffusion.weighting import debiased
from keras_sdft.diffusion.weighting import min_snr
from keras_sdft.diffusion.weighting import p2
from keras_sdft.diffusion.weighting import weighting_table

__all__ = [
    "PREDICTION_TYPES",
    "SAMPLERS",
    "SPACINGS",
    "NoiseSchedule",
    "StatelessSeed",
    "add_multires_noise",
    "add_offset_noise",
    "check_prediction_type",
    "check_timestep_range",
    "constant",
    "ddim",
    "dpmpp_2m",
    "debiased",
    "gaussian",
    "min_snr",
    "p2",
    "perturb_noise",
    "prediction_target",
    "rescale_to_zero_terminal_snr",
    "sample",
    "sample_timesteps",
    "sampling_timesteps",
    "scaled_linear_betas",
    "split_prediction",
    "stateless_seed",
    "stratified_timesteps",
    "timestep_bias",
    "timestep_embedding",
    "timestep_probabilities",
    "weighting_table",
]
