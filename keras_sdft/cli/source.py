"""What a run learns from: the base of each kind of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_sdft import data
from keras_sdft import distribution
from keras_sdft import runs
from keras_sdft.cli.command import Options

Start = tuple[int, int]


class Source:
    """What a kind of training learns from.

    Attributes:
        inputs: Flags of what is read, what is trained on first, what is
            validated with last.
        made: Flag of what is made beside the run.
    """

    inputs: tuple[str, ...]
    made: str

    def __init__(self, options: Options, sd: Any) -> None:
        self.options = options
        self.sd = sd
        self.report = data.Report()
        self.batch = options.batch_size * options.gradient_accumulation_steps

    @staticmethod
    def check(options: Options, spec: dict[str, Any]) -> None:
        """Checks what needs the model's spec alone, and no run directory."""

    @property
    def prompt(self) -> str:
        """What to try the result with."""
        return "YOUR PROMPT"

    def load(self, start: Start) -> runs.RunData:
        """Reads what is there, to know how long the run is."""
        raise NotImplementedError

    def prepare(self, loaded: runs.RunData, start: Start) -> runs.RunData:
        """Makes what is not there yet; returns the data from `start` on."""
        raise NotImplementedError

    def read_training(
        self, load: Callable[..., Any], source: str, **given: Any
    ) -> Any:
        """Returns batches of whole optimizer steps, changed in each epoch."""
        groups = (data.ImageOptions, data.EpochOptions)
        given |= self.options.values_of(*groups)
        return self._read(load, source, batch_size=self.batch, **given)

    def read_validation(self, source: str | None, **given: Any) -> Any:
        """Returns batches of images as they are, `None` without a source."""
        if source is None:
            return None
        size, limit = self.options.batch_size, self.options.max_unreadable
        given |= {"batch_size": size, "max_unreadable": limit}
        return self._read(data.load, source, shuffle=False, **given)

    def _read(self, load: Any, source: str, **given: Any) -> Any:
        given["resolution"] = (self.sd.img_height, self.sd.img_width)
        given |= {"seed": self.options.seed, "report": self.report}
        index, count = distribution.worker()
        if count > 1:
            given["worker"] = (index, count)
        return load(source, self.sd.tokenizer, **given)

    def steps(self, per_pass: int) -> int:
        """Returns the optimizer steps of the run."""
        if self.options.max_train_steps is not None:
            return self.options.max_train_steps
        return int(self.options.num_train_epochs) * per_pass
