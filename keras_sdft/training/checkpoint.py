"""Saves and restores a training so that it goes on at the very next batch.

Where training is and what a step changes are in one state; random numbers
and the order of data are functions of seed, step and epoch, so that a
resumed training equals one that was never interrupted, bit for bit.
"""

import contextlib
import dataclasses
import importlib
import platform
import warnings
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import ml_dtypes
import numpy as np

from keras_sdft import distribution
from keras_sdft.training import checkpoint_files as disk
from keras_sdft.training.state import configuration
from keras_sdft.training.state import differences
from keras_sdft.training.state import frozen_weights
from keras_sdft.training.state import named_variables
from keras_sdft.training.state import plain
from keras_sdft.version import __version__

_METRICS = "metrics."
_CALLBACKS = "callbacks."


class Position(NamedTuple):
    """The next batch of a training.

    Attributes:
        step: Integer, steps that were trained.
        epoch: Integer, the epoch from 0.
        batch: Integer, batches of this epoch that were trained. All of
            them where the end of the epoch (its validation, its logs) is
            still to come.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0


class Progress(keras.callbacks.Callback):
    """Knows where training is; the first callback of every `fit`.

    Attributes:
        position: `Position`.
        batches: Integer, how many the last call of the step function has
            trained on, which it tells: at the end of the data they are
            fewer than `steps_per_execution`.
        callbacks: List of the other callbacks of `fit`.
        is_shared: Boolean, whether several workers end together, by a signal
            that any of them received.
        told: Integer, that signal, once all of them know of it, or `None`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.position = Position()
        self.batches = 1
        self.callbacks: list[Any] = []
        self._last_step: int | None = None
        self._logs: dict[str, float] = {}
        self._first_batch = 0
        self._restored: dict[str, Any] | None = None
        # Of the `fit` in progress, see `callbacks.Checkpoint`.
        self.interruption: Any = None
        self.is_shared = False
        self.told: int | None = None
        # Checksums of the weights that stay, once they are known.
        self.frozen: dict[str, int] = {}

    def restore(self, content: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Makes the next `fit` go on from a checkpoint."""
        self.position = Position(*content["position"])
        self._logs = content["logs"]
        self._restored = {
            "callbacks": content["callbacks"],
            "arrays": {
                name: np.array(value)
                for name, value in arrays.items()
                if name.startswith((_METRICS, _CALLBACKS))
            },
        }

    @property
    def received(self) -> int | None:
        """The signal that this process received, or `None`."""
        return getattr(self.interruption, "signal", None)

    @property
    def signal(self) -> int | None:
        """The signal that is to end the training now, or `None`."""
        return self.told if self.is_shared else self.received

    @property
    def is_interrupted(self) -> bool:
        """Whether there is a signal, told to all workers yet or not."""
        return self.received is not None or self.told is not None

    @property
    def is_restored(self) -> bool:
        return self._restored is not None

    def watch(self, callbacks: list[Any]) -> None:
        """Gives the callbacks of a `fit` the state that was restored."""
        self.callbacks = callbacks
        if self._restored is None:
            return
        states = self._restored["callbacks"]
        arrays = self._restored["arrays"]
        for key, callback in _keyed(callbacks):
            if key in states:
                start = f"{_CALLBACKS}{key}."
                own = {
                    name.removeprefix(start): value
                    for name, value in arrays.items()
                    if name.startswith(start)
                }
                callback.set_state({**states[key], **own})

    def stop_at(self, step: int) -> None:
        """Lets no call of the step function go past a step of this `fit`."""
        self._last_step = min(step, self._last_step or step)

    def next_batches(self, most: int) -> int:
        """Returns how many batches the next call may train on.

        Args:
            most: Integer >= 1, `steps_per_execution`.
        """
        if self._last_step is None:
            return most
        return max(1, min(most, self._last_step - self.position.step))

    def on_train_begin(self, logs=None) -> None:
        self.told, self.is_shared = None, distribution.worker()[1] > 1
        self._last_step = None
        if self._restored is None:
            step = int(self.model.optimizer.iterations.numpy())
            self.position = Position(step)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        first = 0
        if self._restored is not None:
            if epoch == self.position.epoch and self.position.batch:
                first = self.position.batch
                self._restore_metrics(self._restored["arrays"])
            self._restored = None
        self.position = Position(self.position.step, epoch, first)
        self._first_batch = first

    def _restore_metrics(self, arrays: dict[str, Any]) -> None:
        # Keras has just set them to zero.
        for name, variable in named_variables(self.model).items():
            if name.startswith(_METRICS) and name in arrays:
                variable.assign(arrays[name])

    def on_train_batch_end(self, batch, logs=None) -> None:
        # Not by `batch`: Keras counts a call's batches before it has them.
        step, epoch, trained = self.position
        self.position = Position(
            step + self.batches, epoch, trained + self.batches
        )
        # Not a copy: callbacks after this one add to it.
        self._logs = logs or {}

    def on_epoch_end(self, epoch, logs=None) -> None:
        trained_here = self.position.batch - self._first_batch
        if not trained_here and logs is not None:
            # Only the end of this epoch was still to come.
            for name, value in self._logs.items():
                logs.setdefault(name, value)
        if not self.model.stop_training:
            self.position = Position(self.position.step, epoch + 1)

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: position, logs and callbacks."""
        states = {
            key: callback.get_state()
            for key, callback in _keyed(self.callbacks)
        }
        return {
            "position": list(self.position),
            "logs": {name: float(v) for name, v in self._logs.items()},
            "callbacks": states,
        }


def _keyed(callbacks: list[Any]) -> list[tuple[str, Any]]:
    """Returns the callbacks that have a state, each with a name."""
    result: list[tuple[str, Any]] = []
    counts: dict[str, int] = {}
    for callback in callbacks:
        if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
            name = type(callback).__name__
            counts[name] = counts.get(name, 0) + 1
            number = counts[name]
            result.append(
                (name if number == 1 else f"{name}-{number}", callback)
            )
    return result


class Interrupted(KeyboardInterrupt):
    """A signal ended the training; a checkpoint of its last step is written.

    Attributes:
        signal: Integer, the signal.
    """

    def __init__(self, number: int, save: Callable[[], None]) -> None:
        super().__init__(f"signal {number}")
        self.signal = number
        self.save = save


@contextlib.contextmanager
def going_on(trainer: Any, arguments: dict[str, Any]) -> Iterator[None]:
    """Context manager for a `fit` that may go on from a checkpoint.

    Args:
        trainer: A `Trainer`.
        arguments: Dict of the arguments of `fit`, which is changed.
    """
    callbacks = arguments.get("callbacks") or []
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    if not trainer.writes_files:
        others = [c for c in callbacks if not getattr(c, "chief_only", False)]
        callbacks, arguments["verbose"] = others, 0
    progress = trainer.progress
    progress.watch(list(callbacks))
    arguments["callbacks"] = [progress, *callbacks]
    with warnings.catch_warnings():
        if progress.is_restored:
            arguments.setdefault("initial_epoch", progress.position.epoch)
            # The rest of an epoch is all that its first pass can give.
            warnings.filterwarnings("ignore", "Your input ran out of data")
        try:
            yield
        except Interrupted as error:
            # Here, and not where it was raised: a validation had the average
            # of the weights in their place.
            error.save()
            raise


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state of a training at one moment, to be written.

    Attributes:
        content: Dict of what JSON can hold.
        sources: Tensors by name, see `checkpoint_files.Source`.
    """

    content: dict[str, Any]
    sources: dict[str, disk.Source]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            int(np.prod(shape, dtype="int64")) * dtype.itemsize
            for shape, dtype, _ in self.sources.values()
        )

    def copied(self) -> "Snapshot":
        """Returns it with its tensors copied, while training goes on."""
        sources = {
            name: (shape, dtype, _giving(read()))
            for name, (shape, dtype, read) in self.sources.items()
        }
        return Snapshot(self.content, sources)

    def write(self, path: str | Path) -> None:
        """Writes it, see `checkpoint_files.write`."""
        disk.write(Path(path), self.sources, self.content)


def snapshot(trainer: Any, about: dict[str, Any] | None = None) -> Snapshot:
    """Returns the state of a training as it is now.

    Args:
        trainer: A compiled `Trainer`.
        about: Dict of what JSON can hold, to be kept with it.
    """
    _build(trainer)
    state = trainer.progress.state()
    sources: dict[str, disk.Source] = {
        name: _source(variable)
        for name, variable in named_variables(trainer).items()
    }
    for key, values in state["callbacks"].items():
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                sources[f"{_CALLBACKS}{key}.{name}"] = (
                    value.shape,
                    value.dtype,
                    _giving(value),
                )
        state["callbacks"][key] = {
            name: plain(value)
            for name, value in values.items()
            if not isinstance(value, np.ndarray)
        }
    content = {
        **state,
        "configuration": configuration(trainer),
        "frozen": frozen_checksums(trainer),
        "versions": versions(),
        "about": about or {},
    }
    return Snapshot(content, sources)


def _giving(value: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: value


def _source(variable: Any) -> disk.Source:
    dtype = np.dtype(
        ml_dtypes.bfloat16 if variable.dtype == "bfloat16" else variable.dtype
    )

    def read() -> np.ndarray:
        return np.array(variable.numpy(), dtype)

    return tuple(variable.shape), dtype, read


def restore(trainer: Any, path: str | Path) -> dict[str, Any]:
    """Puts a checkpoint into a trainer that was made in the same way.

    Args:
        trainer: A compiled `Trainer`.
        path: A checkpoint, or a directory of them, of which the newest whole
            one is taken.

    Returns:
        Dict, the checkpoint's content.

    Raises:
        ValueError: If there is no whole checkpoint, or if the training has
            another configuration, other weights or another base model.
    """
    path, content = _find(Path(path))
    _check_same(trainer, path, content)
    _build(trainer)
    arrays = disk.read_tensors(path)
    variables = {
        name: variable
        for name, variable in named_variables(trainer).items()
        if not name.startswith(_METRICS)
    }
    _check_names(path, variables, arrays)
    for name, variable in variables.items():
        variable.assign(arrays[name])
    trainer.progress.restore(content, arrays)
    now, then = versions(), content["versions"]
    if now != then:
        warnings.warn(
            f"The checkpoint was written with {_text(then)}, and training "
            f"goes on with {_text(now)}: results may differ in their last "
            "bits.",
            stacklevel=3,
        )
    return content


def _find(path: Path) -> tuple[Path, dict[str, Any]]:
    if (path / disk.RECORD).is_file():
        return path, disk.check_whole(path)
    found = disk.find_newest(path)
    if found is None:
        raise ValueError(
            f"There is no checkpoint in {str(path)!r}: training stopped "
            "before the first was written. Begin it anew."
        )
    return found


def _check_same(trainer: Any, path: Path, content: dict[str, Any]) -> None:
    found = differences(configuration(trainer), content["configuration"])
    found += [
        f"the base model's {name} has other weights"
        for name, checksum in frozen_checksums(trainer).items()
        if content["frozen"].get(name, checksum) != checksum
    ]
    if found:
        raise ValueError(
            f"The training differs from that of the checkpoint {str(path)!r}, "
            f"so it cannot go on from there: {'; '.join(found[:5])}. Make it "
            "as it was, or begin anew."
        )


def _check_names(path: Path, variables: Any, arrays: Any) -> None:
    names = {n for n in arrays if not n.startswith((_METRICS, _CALLBACKS))}
    wrong = sorted(names ^ set(variables))
    wrong += sorted(
        name
        for name in names & set(variables)
        if tuple(arrays[name].shape) != tuple(variables[name].shape)
    )
    if wrong:
        raise ValueError(
            f"The checkpoint {str(path)!r} holds other tensors than this "
            f"training has: {wrong[:5]}. Make the trainer as it was."
        )


def _build(trainer: Any) -> None:
    if not trainer.compiled:
        raise ValueError("Call `compile()` before a checkpoint is used.")
    if not trainer.optimizer.built:
        trainer.optimizer.build(trainer.trainable_variables)


def frozen_checksums(trainer: Any) -> dict[str, int]:
    """Returns a checksum of the weights of each network that stay.

    They are not in a checkpoint, and must be the same when it is restored.
    """
    found = trainer.progress.frozen
    if not found:
        for network, variables in frozen_weights(trainer).items():
            found[network] = checksum(variables)
    return found


def checksum(variables: list[Any]) -> int:
    """Returns a checksum of the values of variables."""
    result = 0
    for variable in variables:
        # Not `tobytes`, which copies a network once more.
        value = np.ascontiguousarray(variable.numpy())
        data = value.reshape(-1).view(np.uint8).data
        result = zlib.crc32(data, result)
    return result


def versions() -> dict[str, str]:
    """Returns the versions that the last bits of a result depend on."""
    backend = keras.backend.backend()
    return {
        "keras_sdft": __version__,
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
        "machine": platform.machine(),
    }


def _text(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())
