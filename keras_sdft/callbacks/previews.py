"""Images generated from fixed seeds while training goes on.

Generates with the weights in memory through the trainer's own
StableDiffusion; never builds a second model, never touches the training's
random numbers.
"""

import json
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_sdft import checks
from keras_sdft.callbacks.grid import image_grid
from keras_sdft.callbacks.grid import rows
from keras_sdft.callbacks.grid import save_png
from keras_sdft.callbacks.grid import stack
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import warn_on_disk_error
from keras_sdft.callbacks.tensorboard import cut_events
from keras_sdft.models import NonFiniteImage

BEFORE_AND_AFTER = "before_and_after.png"
# Prompts side by side in it, no more than a phone shows, and the pixels that
# "before" takes on their left.
_COLUMNS = 4
_BEFORE_WIDTH = 64
_TAG_LENGTH = 80
# The text of a preview's file that has the prompts as JSON.
_PROMPTS = "prompts"


class Previews(StepCallback):
    """Generates images of the same prompts from the same seeds.

    Images are generated before the first step, every so many steps or
    epochs, and at the end, with the averaged weights where the trainer keeps
    an average. Prompt `i` starts from the noise of `seed + i` each time, so
    what changes between two grids is the model. Prompts are processed one at
    a time, which keeps the memory beside the training small. At the end, the
    first and the last images are put side by side in
    `before_and_after.png`. A file that cannot be written is told in a
    warning, and training goes on.

    Args:
        prompts: A string, or a list of strings, one row of the grid each.
        directory: Path of the directory for `step_000100.png` and so on. It
            is made when the first grid is written.
        every_epochs: Int >= 1, epochs between two grids.
        every_steps: Int >= 1, optimizer steps between two grids. Give this
            or `every_epochs`.
        num_steps: Int in [1, 1000], sampling steps. `None` for the model's
            own, 25 at most.
        guidance_scale: Float >= 0, classifier-free guidance. `None` for the
            model's own.
        seed: Int >= 0, seed of the first prompt. Defaults to `0`.
        tensorboard_directory: Path of a TensorBoard log directory that the
            images are written to as well, or `None`.

    Raises:
        ValueError: If an argument is out of its range, or if not exactly
            one of `every_epochs` and `every_steps` is given.
        NotADirectoryError: If `directory` is a file.
    """

    chief_only = True

    def __init__(
        self,
        prompts: str | Sequence[str],
        directory: str | os.PathLike,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        tensorboard_directory: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        checks.exclusive(every_epochs=every_epochs, every_steps=every_steps)
        self.prompts = _checked_prompts(prompts)
        self.directory = _checked_directory(directory)
        for name, value in (
            ("every_epochs", every_epochs),
            ("every_steps", every_steps),
        ):
            if value is not None:
                checks.integer(name, value, 1)
        self.every_epochs, self.every_steps = every_epochs, every_steps
        self.num_steps = checks.optional(
            checks.integer, "num_steps", num_steps, 1, 1000
        )
        self.guidance_scale = checks.optional(
            checks.number, "guidance_scale", guidance_scale, 0
        )
        self.seed = checks.integer("seed", seed, 0)
        self.tensorboard_directory = tensorboard_directory
        self._writer: Any = None
        self._generated_at: int | None = None
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._restored = False
        # A grid that an interruption left out.
        self._is_missing = False

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        restored, self._restored = self._restored, False
        if not restored or self._first is None:
            self._generated_at = None
            self.generate()
            self._first = self._last
        elif self._is_missing:
            self.generate()

    def on_step_end(self, before, logs) -> None:
        if self.passed(before, self.every_steps):
            self.generate()

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self.every_epochs and (epoch + 1) % self.every_epochs == 0:
            self.generate()

    def on_train_end(self, logs=None) -> None:
        if self._generated_at != self.step:
            self.generate()
        if self._generated_at == self.step:
            self._end()

    def complete(self) -> bool:
        """Generates the last grid, where a signal has left it out.

        For after `fit`, once the weights are exported.

        Returns:
            Whether it was left out.
        """
        left_out = self._generated_at != self.step
        if left_out:
            self.generate(despite_signal=True)
            self._end()
        return left_out

    def _end(self) -> None:
        with warn_on_disk_error("The comparison of before and after"):
            save_png(self._before_and_after(), self.before_and_after)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps of it."""
        if self._writer is not None:
            self._writer.flush()
        return {
            "step": self.step,
            "generated_at": self._generated_at,
            "is_missing": self._is_missing,
            "prompts": self.prompts,
            "first": self._first,
            "last": self._last,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint, if the prompts are still the same."""
        if self.tensorboard_directory is not None:
            cut_events(self.tensorboard_directory, state["step"])
        if state["prompts"] == self.prompts:
            self._generated_at = state["generated_at"]
            self._is_missing = state["is_missing"]
            self._first, self._last = state["first"], state["last"]
            self._restored = True

    @property
    def before_and_after(self) -> str:
        """Path of the image that compares the first with the last."""
        return os.path.join(self.directory, BEFORE_AND_AFTER)

    def _before_and_after(self) -> Any:
        """Two rows for each `_COLUMNS` prompts."""
        grids = []
        for begin in range(0, len(self.prompts), _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            images = np.concatenate([self._first[part], self._last[part]])
            grids.append(
                image_grid(
                    images,
                    labels=("before", "after"),
                    column_labels=self.prompts[part],
                    label_width=_BEFORE_WIDTH,
                )
            )
        return stack(grids)

    def generate(self, despite_signal: bool = False) -> str | None:
        """Generates all prompts now and writes the grid of this step.

        Args:
            despite_signal: Boolean, whether it goes on when training was
                interrupted.

        Returns:
            Path of the PNG file, or `None` if training was interrupted
            meanwhile.
        """
        found = []
        with self.model.averaged_weights():
            for index in range(len(self.prompts)):
                interrupted = self._trainer.progress.is_interrupted
                if interrupted and not despite_signal:
                    self._is_missing = True
                    return None
                found.append(self._generate_prompt(index))
        images = np.concatenate(found)
        path = os.path.join(self.directory, f"step_{self.step:06d}.png")
        with warn_on_disk_error(f"The preview of step {self.step}"):
            grid = image_grid(images, columns=1, labels=self.prompts)
            save_png(grid, path, {_PROMPTS: json.dumps(self.prompts)})
        with warn_on_disk_error("The preview for TensorBoard"):
            self._write_to_tensorboard(images)
        self._generated_at, self._last = self.step, images
        self._is_missing = False
        return path

    def _generate_prompt(self, index: int) -> np.ndarray:
        model = self.model.stable_diffusion
        sampling = model.spec.sampling(
            self.num_steps, self.guidance_scale, quick=True
        )
        try:
            return model.text_to_image(
                self.prompts[index],
                batch_size=1,
                seed=self.seed + index,
                **sampling,
            )
        except NonFiniteImage as error:
            # No reason to end a training run that may be well.
            warnings.warn(
                f"A preview of step {self.step} is left black "
                f"({self.prompts[index]!r}). {error}",
                stacklevel=2,
            )
            return np.zeros((1, model.img_height, model.img_width, 3), "uint8")

    def _write_to_tensorboard(self, images: np.ndarray) -> None:
        if self.tensorboard_directory is None:
            return
        from tensorflow import summary

        if self._writer is None:
            self._writer = summary.create_file_writer(
                os.fspath(self.tensorboard_directory)
            )
        # `keras.callbacks.TensorBoard(update_freq=N)` filters what others
        # write as well.
        with self._writer.as_default(), summary.record_if(True):
            for tag, image, prompt in zip(
                _tags(self.prompts), images, self.prompts, strict=True
            ):
                summary.image(
                    tag, image[None], step=self.step, description=prompt
                )
        self._writer.flush()


def split_preview(path: str | os.PathLike) -> list[tuple[str, Any]]:
    """Returns the prompts of a preview's file, each with its image.

    Args:
        path: Path of a PNG that `Previews` wrote.

    Returns:
        List of pairs of a string and a `PIL.Image.Image`; empty of another
        image.
    """
    with Image.open(path) as grid:
        grid.load()
        prompts = json.loads(getattr(grid, "text", {}).get(_PROMPTS, "[]"))
        return list(zip(prompts, rows(grid, len(prompts)), strict=True))


def _tags(prompts: Sequence[str]) -> list[str]:
    """Returns a tag for each prompt, with its number where two are alike."""
    short = [prompt[:_TAG_LENGTH] for prompt in prompts]
    if len(set(short)) < len(short):
        short = [f"{number} {text}" for number, text in enumerate(short)]
    return [f"images/{text}" for text in short]


def _checked_prompts(prompts: str | Sequence[str]) -> list[str]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ValueError(
            "`prompts` must be a string or a list of at least one string. "
            f"Received: {prompts!r}."
        )
    return prompts


def _checked_directory(directory: str | os.PathLike) -> str:
    directory = os.fspath(directory)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise NotADirectoryError(
            "`directory` must be a directory to write previews into. "
            f"Received a file: {directory}."
        )
    return directory
