"""The front door: a Keras model whose training step fine-tunes diffusion.

It orders other rooms' work and owns nothing else: what latents, noise,
targets, weights and averages are is decided where they live.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_sdft.diffusion import timestep_embedding
from keras_sdft.encoding import encode_captions
from keras_sdft.encoding import encode_latents
from keras_sdft.encoding import latent_shape
from keras_sdft.models.exported import write_export
from keras_sdft.training.conditioning import check_dataset
from keras_sdft.training.denoising import DenoisingLoss
from keras_sdft.training.draws import Draws
from keras_sdft.training.draws import check_at_least
from keras_sdft.training.loss_metrics import LossMetrics
from keras_sdft.training.memory import MemoryEstimate
from keras_sdft.training.memory import estimate
from keras_sdft.training.retarget import check_parts
from keras_sdft.training.retarget import retarget
from keras_sdft.training.tensorflow.accumulation import accumulate
from keras_sdft.training.tensorflow.schedule_free import judged_weights
from keras_sdft.training.tensorflow.step_function import step_function
from keras_sdft.training.two_optimizers import choose_optimizer
from keras_sdft.training.validation import Validation
from keras_sdft.training.weight_average import WeightAverage


class Trainer(keras.Model):
    """Fine-tunes the diffusion model of a `StableDiffusion`.

    The image encoder is run frozen, and the text encoder unless it is to
    learn too. The fine-tuned model is `trainer.stable_diffusion`, which
    shares the weights. Options combine unless they contradict each other.

    Randomness is stateless: timesteps, noise and latents are functions of
    `seed`, the optimizer step and the place in the batch.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        prediction_type: `"epsilon"` or `"v_prediction"`. Defaults to what
            the model was trained with.
        change_prediction_type: Boolean, whether `prediction_type` may be
            another than the model was trained with: it must then learn a
            new answer from the start.
        zero_terminal_snr: Boolean, whether the noise schedule ends in pure
            noise; only with `"v_prediction"`. Sampling follows. Defaults
            to what the model was trained with.
        weighting: How much each timestep counts: `"constant"`,
            `"min_snr"`, `"p2"`, `"debiased"` or a function
            `(snr, prediction_type) -> weights`.
        loss: `"mse"` or `"huber"`.
        huber_delta: Float > 0, the error from which `"huber"` is linear.
        offset_noise: Float >= 0, strength of offset noise; `0` is none.
        multires_noise_iterations: Integer >= 0, levels of
            multi-resolution noise; `0` is none.
        multires_noise_discount: Float in (0, 1], weight of each coarser
            level against the one before.
        input_perturbation: Float >= 0, strength of further noise in what
            the network sees, not in what it shall answer; `0` is none.
        timestep_range: Pair `(first, end)`; timesteps of training are
            drawn from `[first, end)`. Defaults to all.
        timestep_bias: Array `(T,)` of relative probabilities of the
            timesteps (see `keras_sdft.diffusion.timestep_bias`), or a
            function of `T` that returns one. Defaults to uniform.
        train_text_encoder: Boolean, whether the text encoder learns too.
        text_encoder_stop_step: Integer >= 1, optimizer steps after which
            the text encoder stays as it is; `None` for never.
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
        change_prediction_type: bool = False,
        zero_terminal_snr: bool | None = None,
        weighting: Any = "constant",
        loss: str = "mse",
        huber_delta: float = 0.1,
        offset_noise: float = 0.0,
        multires_noise_iterations: int = 0,
        multires_noise_discount: float = 0.3,
        input_perturbation: float = 0.0,
        timestep_range: tuple[int, int] | None = None,
        timestep_bias: Any = None,
        train_text_encoder: bool = False,
        text_encoder_stop_step: int | None = None,
        gradient_accumulation_steps: int = 1,
        ema_decay: float | None = None,
        validation_timesteps: int = 4,
        seed: int = 0,
        name: str = "trainer",
    ):
        super().__init__(name=name, dtype=stable_diffusion.dtype)
        check_at_least(
            "gradient_accumulation_steps", gradient_accumulation_steps, 1
        )
        check_at_least("validation_timesteps", validation_timesteps, 1)
        check_parts(train_text_encoder, text_encoder_stop_step)
        spec, schedule = retarget(
            stable_diffusion,
            prediction_type,
            zero_terminal_snr,
            change_prediction_type,
        )
        self.objective = DenoisingLoss(
            schedule, spec.prediction_type, weighting, loss, huber_delta
        )
        self.draws = Draws(
            seed,
            schedule.num_train_timesteps,
            offset_noise,
            multires_noise_iterations,
            multires_noise_discount,
            input_perturbation,
            timestep_range,
            timestep_bias,
        )
        self.validation = Validation(self.objective, validation_timesteps, seed)
        # Whoever generates with this model must ask it what it now answers.
        stable_diffusion.spec = spec
        self.stable_diffusion = stable_diffusion
        self.diffusion_model = stable_diffusion.diffusion_model
        self.text_encoder = None
        self.text_encoder_stop_step = text_encoder_stop_step
        if train_text_encoder:
            self.text_encoder = stable_diffusion.text_encoder
            stable_diffusion.trained_parts.add("text_encoder")
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.seed = seed
        self._loss_metrics = LossMetrics()
        self.step = self._counter("step")
        self._validated = self._counter("validated")
        self.weight_average = None
        if ema_decay is not None:
            self.weight_average = WeightAverage(
                self.trainable_variables, ema_decay
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
        text_encoder_optimizer: Any = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> None:
        """Chooses the optimizer.

        Args:
            optimizer: A Keras optimizer or its name, see
                `keras_sdft.training.optimizers.get`. Defaults to
                `keras_sdft.training.AdamW()`: learning rate 1e-5, decay
                1e-2, global norm clipped at 1.
            text_encoder_optimizer: Likewise, for the text encoder's
                weights. Defaults to another like `optimizer`. The norm of
                all gradients together is clipped as `optimizer` clips.
            jit_compile: Boolean, whether the step is compiled by XLA.
            **kwargs: As for `keras.Model.compile`; the loss is the
                denoising objective's and cannot be given.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(
                "The loss is the denoising objective's own. Choose it with "
                "`Trainer(..., loss=, prediction_type=, weighting=)`. "
                f"Received: loss={kwargs['loss']!r}."
            )
        optimizer = choose_optimizer(
            optimizer,
            text_encoder_optimizer,
            self.text_encoder,
            self.text_encoder_stop_step,
            averaged=self.weight_average is not None,
        )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, as `keras.Model.fit`, on a dataset of batches.

        Args:
            x: A `tf.data.Dataset` of batch dicts, from
                `keras_sdft.data.load`.
            *args, **kwargs: As for `keras.Model.fit`.

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

    def _make_function(self, step: Any) -> Any:
        return step_function(self, step) or super()._make_function(step)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the validation loss, of the averaged weights if kept."""
        if x is not None:
            self._check_dataset(x, 1)
        with self.averaged_weights():
            return super().evaluate(x, *args, **kwargs)

    def memory_estimate(self, batch: dict[str, Any]) -> MemoryEstimate:
        """Estimates what training takes, before it is taken.

        Args:
            batch: A batch, or the `element_spec` of a dataset.

        Returns:
            A `keras_sdft.training.MemoryEstimate`, in bytes.
        """
        self._assert_compile_called("memory_estimate")
        return estimate(self, batch)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Predicts the target from noised latents, see `DiffusionModel`."""
        return self.diffusion_model(inputs, training=training)

    @property
    def metrics(self) -> list[Any]:
        return self._loss_metrics.trackers

    def reset_metrics(self) -> None:
        super().reset_metrics()
        # Validation begins at its first example again.
        self._validated.assign(0)

    # === One step ===

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step on one batch."""
        loss, *rest = accumulate(
            self._loss_and_gradients,
            {**data, **self._draws(data, self.step)},
            self.gradient_accumulation_steps,
        )
        count = len(self.trainable_variables)
        # Data of unknown length ends inside the graph, and that is no step.
        with tf.control_dependencies([loss]):
            self.optimizer.apply(rest[:count], self.trainable_variables)
            if self.weight_average is not None:
                self.weight_average.update(self.step)
            self.step.assign_add(1)
            return self._loss_metrics.update(loss, None, rest[count:])

    def _draws(self, batch: dict[str, Any], step: Any) -> dict[str, Any]:
        """All random numbers of a step, for the whole batch at once."""
        return self.draws(latent_shape(self.stable_diffusion, batch), step)

    def _loss_and_gradients(self, batch: dict[str, Any]) -> list[Any]:
        """A part's loss, each weight's gradient, what `LossMetrics` sums."""
        # What is frozen is encoded outside the tape, so that nothing is
        # kept for it.
        latents = encode_latents(
            self.stable_diffusion, batch, batch["latent_noise"]
        )
        context = None
        if self.text_encoder is None:
            context = encode_captions(self.stable_diffusion, batch)
        timesteps = batch["timesteps"]
        noised, target = self.objective.noised_example(
            latents, batch["noise"], timesteps, batch.get("input_noise")
        )
        with tf.GradientTape() as tape:
            if context is None:
                context = encode_captions(self.stable_diffusion, batch)
            prediction = self._predict(noised, timesteps, context)
            losses = self.objective.loss(
                prediction, target, timesteps, batch.get("loss_mask")
            )
            # Each example's share is that of the whole batch, so the sum
            # over parts (and replicas) is the mean over the batch.
            loss = ops.sum(losses * batch["example_weight"] * batch["share"])
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled,
            self.trainable_variables,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # An embedding's gradient comes as the rows that were looked up.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return [loss, *gradients, *self._loss_metrics.sums(losses, batch)]

    def test_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """The plain denoising error at fixed noise and fixed timesteps."""
        sd, first = self.stable_diffusion, self._validated
        shape = latent_shape(sd, data)
        noise = self.validation.latent_noise(shape, first)
        latents = encode_latents(sd, data, noise)
        context = encode_captions(sd, data)

        def predict(noised: Any, timesteps: Any) -> Any:
            return self._predict(noised, timesteps, context, training=False)

        losses = self.validation.losses(
            predict, latents, first, data.get("loss_mask")
        )
        self._validated.assign_add(shape[0])
        sums = self._loss_metrics.sums(losses, data)
        return self._loss_metrics.update(losses, data["example_weight"], sums)

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

    # === The result ===

    def averaged_weights(self) -> Any:
        """Inside, the model holds the average of its weights, if kept."""
        optimizer = getattr(self, "optimizer", None)
        return judged_weights(self.weight_average, optimizer)

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
        learns = self.text_encoder is not None
        check_dataset(dataset, self.stable_diffusion, parts, learns)
