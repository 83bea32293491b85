"""Images drawn from fixed seeds while training goes on.

Draws with the weights in memory through the trainer's own StableDiffusion;
never builds a second model, never touches the training's random numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_sdft.callbacks.grid import image_grid
from keras_sdft.callbacks.grid import save_png
from keras_sdft.callbacks.grid import stack
from keras_sdft.callbacks.steps import StepCallback
from keras_sdft.callbacks.steps import check_count

BEFORE_AND_AFTER = "before_and_after.png"
# Prompts side by side in it.
_COLUMNS = 8


class Previews(StepCallback):
    """Draws the same prompts from the same seeds while training goes on.

    Images are drawn before the first step, every so many steps or epochs,
    and at the end, with the averaged weights where the trainer keeps an
    average. Prompt `i` starts from the noise of `seed + i` each time, so
    what changes between two grids is the model. Prompts are drawn one at a
    time, which keeps the memory beside the training small. At the end, what
    was drawn first and last is laid side by side in
    `before_and_after.png`.

    Args:
        prompts: A string, or a list of strings, one row of the grid each.
        directory: Path of the directory for `step_000100.png` and so on. It
            is made when the first grid is drawn.
        every_epochs: Int >= 1, epochs between two grids.
        every_steps: Int >= 1, optimizer steps between two grids. Give this
            or `every_epochs`.
        num_steps: Int in [1, 1000], sampling steps. Defaults to `25`.
        guidance_scale: Float >= 0, classifier-free guidance. Defaults to
            `7.5`.
        seed: Int >= 0, seed of the first prompt. Defaults to `0`.
        tensorboard_directory: Path of a TensorBoard log directory that the
            images are written to as well, or `None`.

    Raises:
        ValueError: If an argument is out of its range, or if not exactly
            one of `every_epochs` and `every_steps` is given.
        NotADirectoryError: If `directory` is a file.
    """

    def __init__(
        self,
        prompts: str | Sequence[str],
        directory: str | os.PathLike,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        num_steps: int = 25,
        guidance_scale: float = 7.5,
        seed: int = 0,
        tensorboard_directory: str | os.PathLike | None = None,
    ) -> None:
        super().__init__()
        if (every_epochs is None) == (every_steps is None):
            raise ValueError(
                "Give exactly one of `every_epochs` and `every_steps`. "
                f"Received: every_epochs={every_epochs}, "
                f"every_steps={every_steps}."
            )
        self.prompts = _checked_prompts(prompts)
        self.directory = _checked_directory(directory)
        self.every_epochs = check_count("every_epochs", every_epochs)
        self.every_steps = check_count("every_steps", every_steps)
        self.num_steps = _checked_num_steps(num_steps)
        self.guidance_scale = _checked_scale(guidance_scale)
        self.seed = _checked_seed(seed)
        self.tensorboard_directory = tensorboard_directory
        self._writer: Any = None
        self._drawn_at: int | None = None
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._drawn_at = None
        self.draw()
        self._first = self._last

    def on_step_end(self, before, logs) -> None:
        if self.passed(before, self.every_steps):
            self.draw()

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self.every_epochs and (epoch + 1) % self.every_epochs == 0:
            self.draw()

    def on_train_end(self, logs=None) -> None:
        if self._drawn_at != self.step:
            self.draw()
        save_png(self._before_and_after(), self.before_and_after)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def before_and_after(self) -> str:
        """Path of the picture that compares the first with the last."""
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
                )
            )
        return stack(grids)

    def draw(self) -> str:
        """Draws all prompts now and writes the grid of this step.

        Returns:
            Path of the PNG file.
        """
        with self.model.averaged_weights():
            images = np.concatenate(
                [self._draw_prompt(i) for i in range(len(self.prompts))]
            )
        path = os.path.join(self.directory, f"step_{self.step:06d}.png")
        save_png(image_grid(images, columns=1, labels=self.prompts), path)
        self._write_to_tensorboard(images)
        self._drawn_at, self._last = self.step, images
        return path

    def _draw_prompt(self, index: int) -> np.ndarray:
        return self.model.stable_diffusion.text_to_image(
            self.prompts[index],
            batch_size=1,
            num_steps=self.num_steps,
            unconditional_guidance_scale=self.guidance_scale,
            seed=self.seed + index,
        )

    def _write_to_tensorboard(self, images: np.ndarray) -> None:
        if self.tensorboard_directory is None:
            return
        from tensorflow import summary

        if self._writer is None:
            self._writer = summary.create_file_writer(
                os.fspath(self.tensorboard_directory)
            )
        # `TensorBoard(update_freq=N)` filters what is written while it is
        # on; previews have their own rhythm.
        with self._writer.as_default(), summary.record_if(True):
            for index, prompt in enumerate(self.prompts):
                summary.image(
                    f"preview_{index}",
                    images[index : index + 1],
                    step=self.step,
                    description=prompt,
                )
        self._writer.flush()


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


def _checked_num_steps(num_steps: int) -> int:
    check_count("num_steps", num_steps)
    if num_steps is None or num_steps > 1000:
        raise ValueError(
            "`num_steps` must be in [1, 1000], the number of timesteps the "
            f"model knows. Received: {num_steps!r}."
        )
    return num_steps


def _checked_scale(scale: float) -> float:
    scale = float(scale)
    if not math.isfinite(scale) or scale < 0:
        raise ValueError(
            "`guidance_scale` must be a finite number of 0 or more. "
            f"Received: {scale}."
        )
    return scale


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(
            "`seed` must be an integer of 0 or more, so that each grid "
            f"starts from the same noise. Received: {seed!r}."
        )
    return seed
