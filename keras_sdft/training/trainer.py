"""A Keras model whose training step fine-tunes diffusion.

Orders the work of other modules and packages: what latents, noise, targets,
weights and averages are is decided there.
"""

import math
from pathlib import Path
from typing import Any

import keras

from keras_sdft import checks
from keras_sdft import collector
from keras_sdft import reprs
from keras_sdft.models.exported import check_finite
from keras_sdft.models.exported import write_export
from keras_sdft.models.model_card import ModelCard
from keras_sdft.training import backend
from keras_sdft.training import checkpoint
from keras_sdft.training import parts
from keras_sdft.training.batch_checks import check_dataset
from keras_sdft.training.denoising import Denoising
from keras_sdft.training.denoising import DenoisingLoss
from keras_sdft.training.devices import OneDevice
from keras_sdft.training.loss_metrics import LossMetrics
from keras_sdft.training.memory import MemoryEstimate
from keras_sdft.training.memory import estimate
from keras_sdft.training.noise import Noise
from keras_sdft.training.noise_sampler import NoiseSampler
from keras_sdft.training.objective import Objective
from keras_sdft.training.optimizer_groups import make_optimizer
from keras_sdft.training.validation import Validation
from keras_sdft.training.validation import ValidationStep
from keras_sdft.training.weight_average import WeightAverage
from keras_sdft.training.weight_average import check_average
from keras_sdft.training.weight_average import evaluation_weights

# As `keras.Model` chooses its own.
_TrainStep: Any = backend.module("train_step").TrainStep


class Trainer(_TrainStep, ValidationStep, OneDevice, keras.Model):
    """Fine-tunes a `StableDiffusion`.

    The image encoder is run frozen, and so is the text encoder unless it is
    a part that learns. The fine-tuned model is `trainer.stable_diffusion`,
    which shares the weights. Options combine unless they contradict each
    other.

    Randomness is stateless: timesteps, noise and latents are functions of
    `seed`, the optimizer step and the place in the batch.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        train: What learns: `"diffusion_model"`, `"text_encoder"`, a
            `keras_sdft.training.Part`, or a list of them.
        objective: A `keras_sdft.training.Objective`: what is predicted, and
            how errors count.
        noise: A `keras_sdft.training.Noise`: what is added to images, and
            at which timesteps.
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
        train: Any = ("diffusion_model",),
        objective: Objective | None = None,
        noise: Noise | None = None,
        gradient_accumulation_steps: int = 1,
        ema_decay: float | None = None,
        validation_timesteps: int = 4,
        seed: int = 0,
        name: str = "trainer",
    ):
        super().__init__(name=name, dtype=stable_diffusion.dtype)
        self.gradient_accumulation_steps = checks.integer(
            "gradient_accumulation_steps", gradient_accumulation_steps, 1
        )
        self.ema_decay = check_average(ema_decay)
        self.seed = checks.integer("seed", seed, 0)
        learning = parts.get(train)
        objective, noise = objective or Objective(), noise or Noise()
        loss = DenoisingLoss.of(objective, stable_diffusion)
        num_timesteps = loss.schedule.num_train_timesteps
        self.noise_sampler = NoiseSampler(noise, seed, num_timesteps)
        checks.integer("validation_timesteps", validation_timesteps, 1)
        self.networks = parts.attach(learning, stable_diffusion)
        self.parts = learning
        # Whoever generates with this model must know what it now predicts.
        stable_diffusion.spec = loss.spec_of(stable_diffusion.spec)
        self.stable_diffusion = stable_diffusion
        self.check_devices()
        self.denoising = Denoising(stable_diffusion, loss, self.networks)
        self.validation = Validation(self.denoising, validation_timesteps, seed)
        for network in self.networks:
            # Keras' checkpoints hold what is an attribute.
            setattr(self, network, getattr(stable_diffusion, network))
        self.loss_metrics = LossMetrics()
        self.progress = checkpoint.Progress()
        self.step = self._counter("step")
        self.validated = self._counter("validated")
        self.weight_average: WeightAverage | None = None
        self.prepare_step()
        self.built = True

    def __repr__(self) -> str:
        if not self.built:
            return super().__repr__()
        names = [
            f"{part.name} ({sum(math.prod(v.shape) for v in part.variables):,} "
            "weights)"
            for part in self.parts
        ]
        optimizer = getattr(self, "optimizer", None)
        rate = getattr(optimizer, "learning_rate", None)
        return reprs.lines(
            f"Trainer of {self.stable_diffusion.spec.name!r}",
            {
                "trains": ", ".join(names),
                "towards": self.stable_diffusion.spec.prediction_type,
                "optimizer": "none yet: call `compile()`"
                if optimizer is None
                else f"{type(optimizer).__name__}, learning rate "
                f"{float(keras.ops.convert_to_numpy(rate)):g}",
                "micro-batches": self.gradient_accumulation_steps,
                "average": self.ema_decay,
                "step": f"{int(self.step.numpy()):,}",
            },
        )

    def _counter(self, name: str) -> Any:
        arguments = {"initializer": "zeros", "trainable": False}
        return self.add_weight((), dtype="int32", name=name, **arguments)

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables of the parts that learn, in their order."""
        return [v for part in self.parts for v in part.variables]

    # === As in Keras ===

    def compile(
        self,
        optimizer: Any = None,
        *,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Chooses the optimizer, and makes the state of training.

        Args:
            optimizer: A Keras optimizer or its name, see
                `keras_sdft.training.optimizers.get`, for the parts that
                have none of their own. Defaults to
                `keras_sdft.training.AdamW()`: learning rate 1e-5, decay
                1e-2, global norm clipped at 1. The norm of all gradients
                together is clipped as this optimizer clips.
            jit_compile: Boolean, whether XLA compiles the loss and its
                gradients. `"auto"`: on GPUs. JAX always compiles the step.
            **kwargs: As for `keras.Model.compile`; the loss is that of
                `Trainer(objective=)` and cannot be given.
        """
        if jit_compile != "auto":
            checks.boolean("jit_compile", jit_compile)
        if kwargs.get("loss") is not None:
            raise ValueError(
                "The loss is the denoising objective's own. Choose it with "
                "`Trainer(..., objective=Objective(loss=, weighting=))`. "
                f"Received: loss={kwargs['loss']!r}."
            )
        groups = [group for part in self.parts for group in part.groups()]
        with self.devices_scope():
            optimizer = make_optimizer(optimizer, groups)
            check_average(self.ema_decay, optimizer)
            super().compile(
                optimizer=optimizer, jit_compile=jit_compile, **kwargs
            )
            if self.ema_decay is not None and self.weight_average is None:
                self.weight_average = WeightAverage(
                    self.trainable_variables, self.ema_decay
                )

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains, as `keras.Model.fit`, on a dataset of batches.

        All other arguments are those of `keras.Model.fit`.

        Args:
            x: A `tf.data.Dataset` of batch dicts, from
                `keras_sdft.data.load`.

        Returns:
            A `keras.callbacks.History`.
        """
        self._check_compiled("fit")
        validation = kwargs.get("validation_data")
        with self.devices_scope():
            self.check_workers(x)
            self.check_dataset(x, self.gradient_accumulation_steps)
            parts.check_dataset(self.parts, x)
            if validation is not None:
                self.check_dataset(validation)
            # A graph that makes variables is traced twice, at many seconds
            # each.
            if not self.optimizer.built:
                with collector.paused():
                    self.optimizer.build(self.trainable_variables)
        if hasattr(x, "passes"):
            # What was looked at until now is none.
            x.passes.begin()
        x = self.distributed(x, self.gradient_accumulation_steps)
        if validation is not None:
            kwargs["validation_data"] = self.distributed(validation)
        # The dataset shuffles by itself; Keras would warn that it cannot.
        kwargs.setdefault("shuffle", False)
        with self.devices_scope(), checkpoint.going_on(self, kwargs):
            return super().fit(x, *args, **kwargs)

    def memory_estimate(self, batch: dict[str, Any]) -> MemoryEstimate:
        """Estimates what training takes, before it is taken.

        Args:
            batch: A batch, or the `element_spec` of a dataset.

        Returns:
            A `keras_sdft.training.MemoryEstimate`, in bytes.
        """
        self._check_compiled("memory_estimate")
        return estimate(self, batch)

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        """Predicts the target from noised latents, see `DiffusionModel`."""
        return self.diffusion_model(inputs, training=training)

    @property
    def metrics(self) -> list[Any]:
        return self.loss_metrics.trackers

    # === The result ===

    def averaged_weights(self) -> Any:
        """Context manager that puts the average, if kept, into the model."""
        optimizer = getattr(self, "optimizer", None)
        return evaluation_weights(self.weight_average, optimizer)

    def export(  # type: ignore[override]
        self,
        directory: str | Path,
        overwrite: bool = False,
        card: ModelCard | None = None,
    ) -> Path:
        """Writes the fine-tuned weights, of the average where one is kept.

        The directory then works with `StableDiffusion.from_preset`, and
        its `diffusion_model.weights.h5` with `load_weights` of KerasCV's
        own diffusion model of the same size. A model card goes with them as
        `README.md`, unless one of somebody else is there. Of
        several workers the first one writes.

        Args:
            directory: Path to create.
            overwrite: Boolean, whether an earlier export there is replaced.
            card: `keras_sdft.models.ModelCard` with what the trainer does
                not know: a license, prompts and their images.

        Returns:
            The directory.

        Raises:
            FileExistsError: If something is there that may not be replaced.
        """
        if not self.writes_files:
            return Path(directory)
        with self.averaged_weights():
            check_finite({p.name: p.variables for p in self.parts if p.files()})
            sd, step = self.stable_diffusion, int(self.step.numpy())
            card = parts.card(sd, self.parts, step, card)
            return write_export(
                directory,
                sd,
                steps=step,
                overwrite=overwrite,
                extra=parts.files(self.parts) | card.files(directory),
            )

    # === Going on ===

    def save_checkpoint(self, path: str | Path) -> Path:
        """Writes all that training needs to go on from here, bit for bit.

        Weights that do not learn are not in it. To write checkpoints while
        training goes on, see `keras_sdft.callbacks.Checkpoint`. Of several
        workers the first one writes.

        Args:
            path: The directory to write; a checkpoint that is there is
                replaced.

        Returns:
            The directory.
        """
        if self.writes_files:
            checkpoint.snapshot(self).write(path)
        return Path(path)

    def restore_checkpoint(self, path: str | Path) -> checkpoint.Position:
        """Puts a checkpoint into this trainer, made and compiled as before.

        The next `fit` then goes on, with data that begins at the same place:

        ```python
        position = trainer.restore_checkpoint("runs/cat/checkpoints")
        start = (position.epoch, position.batch)
        dataset = keras_sdft.data.load("photos/", tokenizer, start=start)
        trainer.fit(dataset, epochs=10)
        ```

        Args:
            path: A checkpoint, or a directory of them, of which the newest
                whole one is taken.

        Returns:
            A `keras_sdft.training.Position`: `step`, `epoch` and `batch`.

        Raises:
            ValueError: If there is no whole checkpoint, or if the training
                has another configuration, other weights or another base
                model.
        """
        checkpoint.restore(self, path)
        return self.progress.position

    def _check_compiled(self, name: str) -> None:
        if not self.compiled:
            raise ValueError(f"Call `compile()` before `{name}()`.")

    def check_dataset(self, dataset: Any, micro_batches: int = 1) -> None:
        """Raises `ValueError` for a dataset that cannot be trained on."""
        sd = self.stable_diffusion
        check_dataset(dataset, sd, micro_batches, self.networks)
