"""How far and how fast: a bar over all steps, and images per second.

Knows counts and clocks; not what is trained.
"""

import sys
import time
from typing import Any

from keras import ops
from tqdm import tqdm

from keras_sdft import checks
from keras_sdft.callbacks.steps import StepCallback


class Progress(StepCallback):
    """One bar over all optimizer steps of a run.

    Shows steps, the loss (Keras' mean over the epoch so far), images per
    second and the time left. Both count the whole elapsed
    time, previews and validation included, except the first step, which
    builds the graph. Use it with `fit(..., verbose=0)`.

    Args:
        total_steps: Int >= 1, optimizer steps of the whole run.
        images_per_step: Int >= 1, images in one optimizer step.
        file: Text stream to write to. Defaults to `sys.stderr`. On a stream
            that is no terminal a line is written twice a minute.

    Raises:
        ValueError: If a count is not an integer of 1 or more.
    """

    chief_only = True

    def __init__(
        self, total_steps: int, images_per_step: int, file=None
    ) -> None:
        super().__init__()
        self.total_steps = checks.integer("total_steps", total_steps, 1)
        self.images_per_step = checks.integer(
            "images_per_step", images_per_step, 1
        )
        self._file = file
        self._bar: Any = None
        self._built_at: Any = None

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._built_at = None
        file = sys.stderr if self._file is None else self._file
        on_terminal = getattr(file, "isatty", lambda: False)()
        self._bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc="steps",
            unit="step",
            file=file,
            mininterval=0.1 if on_terminal else 30.0,
            bar_format=(
                "{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed} elapsed"
                "{postfix}"
            ),
        )

    def on_step_end(self, before, logs) -> None:
        now = time.perf_counter()
        if self._built_at is None:
            self._built_at = (self.step, now)
        text = self._describe(logs or {}, now)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(self.step - before)

    def on_train_end(self, logs=None) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the bar as it stands, also when training broke off."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def _describe(self, logs: dict, now: float) -> str:
        first, began = self._built_at
        steps, seconds = self.step - first, max(now - began, 1e-9)
        parts = ["? left"]
        if steps:
            left = (self.total_steps - self.step) * seconds / steps
            parts = [f"{tqdm.format_interval(left)} left"]
        if "loss" in logs:
            parts.append(f"loss {float(logs['loss']):.4f}")
        # The two parts of the loss under prior preservation.
        parts += [
            f"{name} {float(logs[f'{name}_loss']):.4f}"
            for name in ("instance", "prior")
            if f"{name}_loss" in logs
        ]
        if steps:
            rate = steps * self.images_per_step / seconds
            parts.append(f"{rate:.1f} images/s")
        return ", ".join(parts)


class Throughput(StepCallback):
    """Adds `images_per_second` and `learning_rate` to the logs.

    Keras hands one dict of logs to all callbacks, so put this one first in
    the list: `TensorBoard`, `CSVLogger` and `History` then write both like
    any metric. The time of a step includes waiting for its batch; the time
    of validation and previews does not count. The first step of a `fit`
    builds the graph and is left out of the epoch's number, unless the epoch
    has no other.

    Args:
        images_per_step: Int >= 1, images in one optimizer step.

    Raises:
        ValueError: If `images_per_step` is not an integer of 1 or more.
    """

    def __init__(self, images_per_step: int) -> None:
        super().__init__()
        self.images_per_step = checks.integer(
            "images_per_step", images_per_step, 1
        )
        self._start = 0.0
        self._built = False
        self._steps, self._seconds = 0, 0.0
        self._building = 0.0

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._built = False

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self._steps, self._seconds, self._building = 0, 0.0, 0.0

    def on_train_batch_begin(self, batch, logs=None) -> None:
        super().on_train_batch_begin(batch, logs)
        self._start = time.perf_counter()

    def on_step_end(self, before, logs) -> None:
        seconds = time.perf_counter() - self._start
        steps = self.step - before
        if self._built:
            self._steps += steps
            self._seconds += seconds
        else:
            self._built = True
            self._building = seconds / steps
        self._add(logs, steps, seconds)

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self._steps:
            self._add(logs, self._steps, self._seconds)
        elif self._building:
            self._add(logs, 1, self._building)

    def _add(self, logs: dict | None, steps: int, seconds: float) -> None:
        if logs is None:
            return
        images = steps * self.images_per_step
        logs["images_per_second"] = images / max(seconds, 1e-9)
        rate = ops.convert_to_numpy(self._trainer.current_learning_rate())
        # A float32 on the device: 1e-4 reads as 9.999999747378752e-05.
        logs["learning_rate"] = float(f"{rate:.7g}")
