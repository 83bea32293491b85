"""The curves of a run: read from its TensorBoard events, smoothed, thinned.

Must not know how they are shown.
"""

import dataclasses
import math
import os
from pathlib import Path

# Points of a curve in a page; more than a screen has pixels.
MAX_POINTS = 1000
# Of a curve, what a smoothed point looks back on.
_SHARE = 0.05


@dataclasses.dataclass
class Curve:
    """A scalar over optimizer steps.

    Attributes:
        steps: List of integers, ascending.
        values: List of floats, of the same length.
    """

    steps: list[int] = dataclasses.field(default_factory=list)
    values: list[float] = dataclasses.field(default_factory=list)

    def smoothed(self) -> "Curve":
        """Returns exponential moving averages of a twentieth of the points.

        The first values count no more than others (as in Adam's bias
        correction). Points that are NaN or infinite are passed over.
        """
        decay = 1 - 1 / max(1.0, _SHARE * len(self.values))
        average, weight, values = 0.0, 0.0, []
        for value in self.values:
            if math.isfinite(value):
                average = decay * average + (1 - decay) * value
                weight = decay * weight + (1 - decay)
            values.append(average / weight if weight else math.nan)
        return Curve(list(self.steps), values)

    def thinned(self, most: int = MAX_POINTS) -> "Curve":
        """Returns at most so many points, each the mean of some neighbours."""
        size = math.ceil(len(self.steps) / most)
        if size <= 1:
            return self
        starts = range(0, len(self.steps), size)
        groups = [self.values[i : i + size] for i in starts]
        steps = [self.steps[min(i + size, len(self.steps)) - 1] for i in starts]
        return Curve(steps, [sum(group) / len(group) for group in groups])


def read_curves(directory: str | os.PathLike) -> dict[str, Curve]:
    """Reads the scalars of a directory of TensorBoard events.

    Args:
        directory: Path of the directory; it need not exist.

    Returns:
        Dict of `Curve`s by tag. Where a step was logged twice, as a run that
        was killed and went on may leave it, the later value counts.
    """
    # The directory of a run must not wait for TensorFlow.
    from tensorboard.util.tensor_util import make_ndarray

    from keras_sdft.callbacks.tensorboard import event_files
    from keras_sdft.callbacks.tensorboard import read_events

    found: dict[str, dict[int, float]] = {}
    for path in event_files(Path(directory)):
        for event in read_events(path):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                if plugin in ("", "scalars") and value.HasField("tensor"):
                    number = float(make_ndarray(value.tensor))
                    found.setdefault(value.tag, {})[event.step] = number
    return {
        tag: Curve(sorted(points), [points[step] for step in sorted(points)])
        for tag, points in found.items()
    }
