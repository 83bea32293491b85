"""The mathematics of diffusion: tables and pure functions of tensors.

This room knows latents, noise and timesteps. It must not know images,
captions, networks, files or optimizers, and imports no other room.
"""

from keras_sdft.diffusion.noise import StatelessSeed
from keras_sdft.diffusion.noise import add_offset_noise
from keras_sdft.diffusion.noise import gaussian
from keras_sdft.diffusion.noise import stateless_seed
from keras_sdft.diffusion.noise_schedule import NoiseSchedule
from keras_sdft.diffusion.noise_schedule import scaled_linear_betas
from keras_sdft.diffusion.prediction import PREDICTION_TYPES
from keras_sdft.diffusion.prediction import check_prediction_type
from keras_sdft.diffusion.prediction import prediction_target
from keras_sdft.diffusion.prediction import split_prediction
from keras_sdft.diffusion.sampling import ddim
from keras_sdft.diffusion.sampling import sampling_timesteps
from keras_sdft.diffusion.timesteps import sample_timesteps
from keras_sdft.diffusion.timesteps import stratified_timesteps
from keras_sdft.diffusion.timesteps import timestep_embedding
from keras_sdft.diffusion.weighting import constant
from keras_sdft.diffusion.weighting import min_snr
from keras_sdft.diffusion.weighting import weighting_table

__all__ = [
    "PREDICTION_TYPES",
    "NoiseSchedule",
    "StatelessSeed",
    "add_offset_noise",
    "check_prediction_type",
    "constant",
    "ddim",
    "gaussian",
    "min_snr",
    "prediction_target",
    "sample_timesteps",
    "sampling_timesteps",
    "scaled_linear_betas",
    "split_prediction",
    "stateless_seed",
    "stratified_timesteps",
    "timestep_embedding",
    "weighting_table",
]
