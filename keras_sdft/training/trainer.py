"""The front door: a Keras model whose training step fine-tunes diffusion.

It orders other rooms' work and owns nothing else: what latents, noise,
targets, weights and averages are is decided where they live.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sdft.diffusion import add_offset_noise
from keras_sdft.diffusion import gaussian
from keras_sdft.diffusion import sample_timesteps
from keras_sdft.diffusion import stateless_seed
from keras_sdft.diffusion import stratified_timesteps
from keras_sdft.diffusion import timestep_embedding
from keras_sdft.models.exported import write_export
from keras_sdft.training.accumulation import accumulate
from keras_sdft.training.conditioning import build_encoders
from keras_sdft.training.conditioning import check_batch_spec
from keras_sdft.training.conditioning import encode_captions
from keras_sdft.training.conditioning import encode_images
from keras_sdft.training.conditioning import sample_latents
from keras_sdft.training.objective import Objective
from keras_sdft.training.objective import squared_error
from keras_sdft.training.optimizers import AdamW
from keras_sdft.training.weight_average import WeightAverage


class Trainer(keras.Model):
    """Fine-tunes the diffusion model of a `StableDiffusion`.

    The text encoder and the image encoder are run frozen; gradients reach
    the diffusion model alone. The fine-tuned model is
    `trainer.stable_diffusion`, which shares the weights.

    Randomness is stateless: timesteps, noise and latents are functions of
    `seed`, the optimizer step and the place in the batch.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        prediction_type: `"epsilon"` or `"v_prediction"`. Defaults to what
            the model was trained with.
        weighting: How much each timestep counts: `"constant"`, `"min_snr"`
            or a function `(snr, prediction_type) -> weights`.
        offset_noise: Float >= 0, strength of offset noise; `0` is none.
        gradient_accumulation_steps: Integer >= 1, micro-batches that a
            batch is split into, to save memory.
        ema_decay: Float in (0, 1) to also keep an exponential moving
            average of the weights, which validation, previews and exports
            then use. `None` keeps none.
        validation_timesteps: Integer >= 1, at how many timesteps, spread
            over the whole range, each validation example is seen.
        seed: Integer >= 0.
        name: String, the model's name.

    Example:

    ```python
    model = keras_sdft.StableDiffusion.from_preset("tiny")
    dataset = keras_sdft.data.load("photos/", model.tokenizer, resolution=128)
    trainer = keras_sdft.Trainer(model)
    trainer.compile()
    trainer.fit(dataset, epochs=10)
    trainer.export("fine-tuned")
    ```

    References:
        Rombach et al., 2022, equation 3.
    """

    def __init__(
        self,
        stable_diffusion: Any,
        *,
        prediction_type: str | None = None,
        weighting: Any = "constant",
        offset_noise: float = 0.0,
        gradient_accumulation_steps: int = 1,
        ema_decay: float | None = None,
        validation_timesteps: int = 4,
        seed: int = 0,
        name: str = "trainer",
    ):
        super().__init__(name=name, dtype=stable_diffusion.dtype)
        _check_at_least("offset_noise", offset_noise, 0)
        _check_at_least(
            "gradient_accumulation_steps", gradient_accumulation_steps, 1
        )
        _check_at_least("validation_timesteps", validation_timesteps, 1)
        _check_at_least("seed", seed, 0)
        spec = stable_diffusion.spec
        prediction_type = prediction_type or spec.prediction_type
        self.objective = Objective(
            stable_diffusion.schedule, prediction_type, weighting
        )
        # Whoever generates with this model must ask it what it now answers.
        stable_diffusion.spec = dataclasses.replace(
            spec, prediction_type=prediction_type
        )
        self.stable_diffusion = stable_diffusion
        self.diffusion_model = stable_diffusion.diffusion_model
        self.offset_noise = offset_noise
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.validation_timesteps = validation_timesteps
        self.seed = seed
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.step = self._counter("step")
        self._validated = self._counter("validated")
        self.weight_average = None
        if ema_decay is not None:
            self.weight_average = WeightAverage(
                self.diffusion_model.trainable_variables, ema_decay
            )
        self.built = True

    def _counter(self, name: str) -> Any:
        return self.add_weight(
            name=name,
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
        )

    # === The Keras way ===

    def compile(
        self,
        optimizer: Any = None,
        *,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """Chooses the optimizer.

        Args:
            optimizer: A Keras optimizer or its name. Defaults to
                `keras_sdft.training.AdamW()`: learning rate 1e-5, decay
                1e-2, global norm clipped at 1.
            jit_compile: Boolean, whether the step is compiled by XLA.
            **kwargs: As for `keras.Model.compile`; the loss is the
                denoising objective's and cannot be given.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(
                "The loss is the denoising objective's own. Choose it with "
                "`Trainer(..., prediction_type=, weighting=)`. "
                f"Received: loss={kwargs['loss']!r}."
            )
        optimizer = AdamW() if optimizer is None else optimizer
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, as `keras.Model.fit`, on a dataset of batches.

        Args:
            x: A `tf.data.Dataset` of batch dicts, from
                `keras_sdft.data.load`.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.
        """
        self._assert_compile_called("fit")
        self._check_dataset(x, self.gradient_accumulation_steps)
        if kwargs.get("validation_data") is not None:
            self._check_dataset(kwargs["validation_data"], 1)
        # A graph that makes variables is traced twice, at many seconds each.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        # The dataset shuffles by itself; Keras would warn that it cannot.
        kwargs.setdefault("shuffle", False)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the validation loss, of the averaged weights if kept."""
        if x is not None:
            self._check_dataset(x, 1)
        with self.averaged_weights():
            return super().evaluate(x, *args, **kwargs)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Predicts the target from noised latents, see `DiffusionModel`."""
        return self.diffusion_model(inputs, training=training)

    @property
    def metrics(self) -> list[Any]:
        return [self.loss_tracker]

    def reset_metrics(self) -> None:
        super().reset_metrics()
        # Validation begins at its first example again.
        self._validated.assign(0)

    # === One step ===

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step on one batch."""
        batch = {**data, **self._draws(data, self.step)}
        loss, *gradients = accumulate(
            self._loss_and_gradients, batch, self.gradient_accumulation_steps
        )
        self.optimizer.apply(gradients, self.trainable_variables)
        if self.weight_average is not None:
            self.weight_average.update(self.step)
        self.step.assign_add(1)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def _draws(self, batch: dict[str, Any], step: Any) -> dict[str, Any]:
        """All random numbers of a step, for the whole batch at once."""
        shape = self._latent_shape(batch)
        noise = gaussian(shape, stateless_seed(self.seed, "noise", step))
        if self.offset_noise:
            seed = stateless_seed(self.seed, "offset_noise", step)
            noise = add_offset_noise(noise, self.offset_noise, seed)
        return {
            "timesteps": sample_timesteps(
                shape[0],
                stateless_seed(self.seed, "timesteps", step),
                self.objective.schedule.num_train_timesteps,
            ),
            "noise": noise,
            "latent_noise": gaussian(
                shape, stateless_seed(self.seed, "latents", step)
            ),
            "share": ops.full((shape[0],), 1.0 / shape[0], dtype="float32"),
        }

    def _loss_and_gradients(self, batch: dict[str, Any]) -> list[Any]:
        """The loss of a part of a batch, then the gradient of each weight."""
        # Frozen: encoded outside the tape, so nothing is kept for them.
        latents = self._latents(batch, batch["latent_noise"])
        context = encode_captions(self.stable_diffusion, batch)
        noised, target = self.objective.noised_example(
            latents, batch["noise"], batch["timesteps"]
        )
        with tf.GradientTape() as tape:
            prediction = self._predict(noised, batch["timesteps"], context)
            losses = self.objective.loss(prediction, target, batch["timesteps"])
            # Each example's share is that of the whole batch, so the sum
            # over parts (and replicas) is the mean over the batch.
            loss = ops.sum(losses * batch["example_weight"] * batch["share"])
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled,
            self.trainable_variables,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return [loss, *gradients]

    def test_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """The plain denoising error at fixed noise and fixed timesteps."""
        shape = self._latent_shape(data)
        positions = self._validated + ops.arange(shape[0], dtype="int32")
        latents = self._latents(data, self._validation_noise(shape, -1))
        context = encode_captions(self.stable_diffusion, data)
        losses = [
            self._validation_loss(latents, context, positions, stratum)
            for stratum in range(self.validation_timesteps)
        ]
        self.loss_tracker.update_state(
            sum(losses) / len(losses), sample_weight=data["example_weight"]
        )
        self._validated.assign_add(shape[0])
        return {"loss": self.loss_tracker.result()}

    def _validation_loss(
        self, latents: Any, context: Any, positions: Any, stratum: int
    ) -> Any:
        timesteps = stratified_timesteps(
            positions,
            stratum,
            self.validation_timesteps,
            self.objective.schedule.num_train_timesteps,
        )
        noise = self._validation_noise(ops.shape(latents), stratum)
        noised, target = self.objective.noised_example(
            latents, noise, timesteps
        )
        prediction = self._predict(noised, timesteps, context, training=False)
        return squared_error(prediction, target)

    def _validation_noise(self, shape: Any, stratum: int) -> Any:
        count = self.validation_timesteps + 1
        key = self._validated * count + stratum + 1
        return gaussian(shape, stateless_seed(self.seed, "validation", key))

    def _predict(
        self, noised: Any, timesteps: Any, context: Any, training: bool = True
    ) -> Any:
        width = self.stable_diffusion.spec.diffusion_model.timestep_width
        inputs = {
            "latent": noised,
            "timestep_embedding": timestep_embedding(timesteps, width),
            "context": context,
        }
        return self.diffusion_model(inputs, training=training)

    def _latents(self, batch: dict[str, Any], noise: Any) -> Any:
        moments = encode_images(self.stable_diffusion, batch)
        scale = self.stable_diffusion.spec.autoencoder.latent_scale
        return sample_latents(moments, noise, scale)

    def _latent_shape(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        channels = self.stable_diffusion.spec.autoencoder.latent_channels
        if "moments" in batch:
            size, height, width = ops.shape(batch["moments"])[:3]
            return (size, height, width, channels)
        size, height, width = ops.shape(batch["images"])[:3]
        return (size, height // 8, width // 8, channels)

    # === The result ===

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the diffusion model holds the moving average, if kept."""
        if self.weight_average is None:
            yield
            return
        with self.weight_average.swapped_in():
            yield

    def export(  # type: ignore[override]
        self, directory: str | Path, overwrite: bool = False
    ) -> Path:
        """Writes the fine-tuned weights, of the average where one is kept.

        The directory then works with `StableDiffusion.from_preset`, and
        its `diffusion_model.weights.h5` with `load_weights` of KerasCV's
        own diffusion model of the same size.

        Args:
            directory: Path to create.
            overwrite: Boolean, whether an earlier export there is replaced.

        Returns:
            The directory.

        Raises:
            FileExistsError: If something is there that may not be replaced.
        """
        with self.averaged_weights():
            return write_export(
                directory,
                self.stable_diffusion,
                steps=int(self.step),
                overwrite=overwrite,
            )

    def _check_dataset(self, dataset: Any, parts: int) -> None:
        spec = getattr(dataset, "element_spec", None)
        if spec is None:
            raise ValueError(
                "Expected a `tf.data.Dataset` of batches, from "
                f"`keras_sdft.data.load`. Received: {type(dataset)}."
            )
        check_batch_spec(spec, self.stable_diffusion, parts)
        build_encoders(self.stable_diffusion, spec)


def _check_at_least(name: str, value: Any, least: int) -> None:
    if value < least:
        raise ValueError(f"`{name}` must be >= {least}. Received: {value}.")
