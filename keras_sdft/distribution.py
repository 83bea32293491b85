"""Several devices and machines: which of them train, and who writes.

The engines are `tf.distribute` and `keras.distribution`. They are imported
only where they are needed. Must not know what is trained.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sys
import typing
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Literal

from keras_sdft import checks
from keras_sdft import devices as devices_of_jax
from keras_sdft import processes
from keras_sdft.tf_config import EXAMPLE
from keras_sdft.tf_config import VARIABLE
from keras_sdft.tf_config import check_port
from keras_sdft.tf_config import read_cluster
from keras_sdft.tf_config import tasks_of

StrategyName = Literal[
    "auto", "none", "mirrored", "multi_worker", "data_parallel", "fully_sharded"
]
STRATEGIES = typing.get_args(StrategyName)
_OF_BACKEND = {
    "tensorflow": ("mirrored", "multi_worker"),
    "jax": devices_of_jax.JAX_STRATEGIES,
}
_INSTALL = "pip install 'tensorflow[and-cuda]'"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributionOptions:
    """The devices: how many of them train together.

    Args:
        strategy: Which devices train. auto takes the machines of TF_CONFIG,
            or else all GPUs of this one; none takes one device. In
            TensorFlow, mirrored takes all GPUs of this machine, multi_worker
            the machines of TF_CONFIG; in JAX, data_parallel takes all
            devices of all processes, and fully_sharded also divides the
            weights among those of each process.

    Raises:
        ValueError: If there is no such strategy.
    """

    strategy: StrategyName = "auto"

    def __post_init__(self) -> None:
        checks.one_of("strategy", self.strategy, STRATEGIES)


class WorkerError(RuntimeError):
    """Another worker could not go on, or was lost."""


class LostWorkerError(WorkerError):
    """Another worker was lost, or the connection to it."""


def use(strategy: str = "auto", devices: Any = None) -> Any:
    """Makes all that follows train on several devices.

    Call it once, before the model is made; for several machines before
    anything else of TensorFlow or JAX.
    `with tf.distribute.MirroredStrategy().scope():` around a script does the
    same.

    Args:
        strategy: `"mirrored"` for all GPUs of this machine;
            `"multi_worker"` for the machines of the environment variable
            `TF_CONFIG`; `"none"` for one device; `"auto"` for the first of
            these that fits: `"multi_worker"` with `TF_CONFIG`,
            `"mirrored"` with two GPUs or more. With Keras' JAX backend,
            `"data_parallel"` or `"fully_sharded"`, see
            `keras_sdft.devices.share`, with all processes that JAX finds or
            the environment names; `"auto"` is the first of them.
        devices: List of names of devices for `"mirrored"`, as
            `["GPU:0", "GPU:1"]`. Defaults to all GPUs; without any, to
            several logical CPUs.

    Returns:
        The `tf.distribute.Strategy` or the `keras.distribution`
        `Distribution`, or `None` for one device.

    Raises:
        ValueError: If there are no such devices, or if `TF_CONFIG` is wrong
            or what names the processes of JAX.

    Example:

    ```python
    keras_sdft.distribution.use("mirrored")
    model = keras_sdft.StableDiffusion.from_preset("sd1.4")
    trainer = keras_sdft.Trainer(model)
    ```
    """
    checks.one_of("strategy", strategy, STRATEGIES)
    backend = _backend()
    if backend == "jax" and strategy in ("auto", *_OF_BACKEND[backend]):
        processes.start()
    if strategy == "auto":
        strategy = _chosen()
    if strategy not in ("none", *_OF_BACKEND.get(backend, ())):
        wanted = [k for k, names in _OF_BACKEND.items() if strategy in names]
        raise ValueError(
            f"`strategy={strategy}` is for Keras' backend {wanted[0]!r}. "
            f"Received: backend {backend!r}. Expected one of "
            f"{['auto', 'none', *_OF_BACKEND.get(backend, ())]}."
        )
    if backend == "jax":
        return devices_of_jax.share(strategy)
    if backend != "tensorflow":
        return None
    import tensorflow as tf

    tf.distribute.experimental_set_strategy(None)
    if strategy == "none":
        return None
    made = _mirrored(devices) if strategy == "mirrored" else _multi_worker()
    tf.distribute.experimental_set_strategy(made)
    return made


def _backend() -> str:
    import keras

    return keras.backend.backend()


def _chosen() -> str:
    """Returns the strategy that fits the machine."""
    if _backend() == "jax":
        several = len(devices_of_jax.accelerators()) > 1
        several = several or processes.place()[1] > 1
        return "data_parallel" if several else "none"
    if _backend() != "tensorflow":
        return "none"
    import tensorflow as tf

    cluster = read_cluster()
    if cluster is not None and len(cluster.addresses) > 1:
        return "multi_worker"
    count = len(tf.config.list_physical_devices("GPU"))
    if not count and os.path.exists("/dev/nvidiactl"):
        logger.warning(
            "This machine has a GPU that TensorFlow cannot use, so that "
            "training takes the CPU. Install what it needs: %s",
            _INSTALL,
        )
    return "mirrored" if count > 1 else "none"


def _mirrored(devices: Any) -> Any:
    import tensorflow as tf

    if devices is None:
        found = tf.config.list_logical_devices("GPU")
        if not found and len(tf.config.list_logical_devices("CPU")) > 1:
            found = tf.config.list_logical_devices("CPU")
        devices = [device.name for device in found]
    if not devices:
        raise ValueError(
            "`strategy=mirrored` needs GPUs that TensorFlow can use. "
            f"Received: none. Install what they need ({_INSTALL}), or use "
            "strategy=none."
        )
    return tf.distribute.MirroredStrategy(list(devices))


def _multi_worker() -> Any:
    import tensorflow as tf

    cluster = read_cluster()
    if cluster is None:
        raise ValueError(
            "`strategy=multi_worker` needs the environment variable "
            f"{VARIABLE}, the same on every machine but for the index. "
            f"Received: none. Expected: {EXAMPLE}. To train, or to resume, "
            "on this machine alone, use strategy=none."
        )
    check_port(cluster)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ValueError(
            "`strategy=multi_worker` must be chosen before anything else of "
            "TensorFlow is used. Call `keras_sdft.distribution.use()` first "
            "in the program."
        ) from error


def others(strategy: str) -> list[str]:
    """Returns the addresses of the machines that `use(strategy)` waits for.

    Raises:
        ValueError: If `TF_CONFIG` is no description of machines.
    """
    if strategy == "none":
        return []
    if _backend() == "jax":
        return processes.others()
    if strategy not in ("auto", "multi_worker") or _backend() != "tensorflow":
        return []
    cluster = read_cluster()
    if cluster is None:
        return []
    addresses, task = cluster
    return [one for i, one in enumerate(addresses) if i != task]


# === Workers ===


def worker() -> tuple[int, int]:
    """Returns this process' number among the workers, and how many are.

    `(0, 1)` for a training on one machine. For `keras_sdft.data.load`:

    ```python
    dataset = keras_sdft.data.load(
        "photos", tokenizer, worker=keras_sdft.distribution.worker()
    )
    ```
    """
    strategy = _strategy()
    if strategy is not None and _backend() == "jax":
        return processes.place()
    resolver = getattr(strategy, "cluster_resolver", None)
    if resolver is None:
        return 0, 1
    tasks = tasks_of(resolver.cluster_spec().as_dict())
    if len(tasks) < 2:
        return 0, 1
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def is_chief() -> bool:
    """Returns whether this process is the one that writes files."""
    return worker()[0] == 0


def num_devices() -> int:
    """Returns how many devices train together, on all machines."""
    strategy = _strategy()
    if strategy is None:
        return 1
    if hasattr(strategy, "num_model_replicas"):
        return strategy.num_model_replicas
    return strategy.num_replicas_in_sync


def barrier() -> None:
    """Waits until all workers are here; on one machine, does nothing.

    The last line of a program that runs on several machines, so that none
    ends while another still writes.
    """
    if worker()[1] > 1:
        _gathered("")


def on_chief(function: Callable[[], Any]) -> Any:
    """Runs a function on the first worker; the others wait for it.

    Args:
        function: Function without arguments. All workers must call this.

    Returns:
        What it returned; `None` on the other workers.

    Raises:
        WorkerError: On the other workers, if it failed on the first.
    """
    return together(lambda: function() if is_chief() else None)


def together(function: Callable[[], Any]) -> Any:
    """Runs a function on each worker; if it fails on one, all fail.

    Args:
        function: Function without arguments. All workers must call this.

    Returns:
        What it returned on this worker.

    Raises:
        WorkerError: On all others, if it failed on one.
    """
    if worker()[1] == 1:
        return function()
    result, error = None, None
    try:
        result = function()
    except Exception as found:
        error = found
    text = "" if error is None else f"{type(error).__name__}: {error}"
    told = _gathered(text)
    if error is not None:
        raise error
    for index, text in enumerate(told):
        if text:
            raise WorkerError(f"Worker {index} could not go on: {text}")
    return result


@contextlib.contextmanager
def naming_lost_workers(when: Callable[[], str]) -> Iterator[None]:
    """Context manager that words the errors of a worker that was lost.

    Args:
        when: Function that returns what was done last: `"after step 3"`.
    """
    lost = _lost_errors()
    try:
        yield
    except lost as error:
        if worker()[1] == 1:
            raise
        if _backend() == "jax" and not processes.tells_of_loss(error):
            raise
        lines = str(error).strip().splitlines()
        told = [line for line in lines if "abort" in line] or lines[-1:]
        raise LostWorkerError(
            "Another worker was lost, or the connection to it, "
            f"{when()}: {told[0][:300].rstrip(':. ')}. Training ends on all "
            "of them. Start all again, as many or fewer, to go on from the "
            "last checkpoint."
        ) from error


def leave(error: BaseException, code: int) -> None:
    """Ends this process if the engine would wait for a worker that is lost.

    JAX waits for all of them at the end of Python, and then aborts.

    Args:
        error: What was raised. Nothing is done if it is no
            `LostWorkerError`.
        code: Integer, the exit code.
    """
    if isinstance(error, LostWorkerError) and _backend() == "jax":
        processes.leave(code)


def _lost_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that the loss of a worker may raise."""
    if _backend() == "jax":
        import jax

        return (jax.errors.JaxRuntimeError,)
    from tensorflow import errors

    return (
        errors.AbortedError,
        errors.CancelledError,
        errors.InternalError,
        errors.UnavailableError,
    )


def check_alike(facts: dict[str, Any]) -> None:
    """Raises `ValueError` if workers do not agree; all must call it.

    Args:
        facts: Dict of what JSON can hold, by the name that an error has.
    """
    if worker()[1] < 2:
        return
    found = [json.loads(text) for text in _gathered(json.dumps(facts))]
    wrong = []
    for name in sorted({name for one in found for name in one}):
        values = [one.get(name) for one in found]
        others = [i for i, value in enumerate(values) if value != values[0]]
        if others:
            wrong.append(
                f"{name} is {values[0]!r} on worker 0, and "
                f"{values[others[0]]!r} on worker {others[0]}"
            )
    if wrong:
        raise ValueError(
            "All workers must train the same, and they do not: "
            f"{'; '.join(wrong[:8])}. Start each with the same flags, data "
            "and library."
        )


def describe(rows: int) -> str:
    """Returns on what is trained, for a line of text.

    Args:
        rows: Integer, rows of a batch on all devices together.
    """
    gpus = devices_of_jax.accelerators()
    strategy, count, workers = _strategy(), num_devices(), worker()[1]
    if strategy is None:
        return f"{len(gpus)} {gpus[0]}" if gpus else "the CPU"
    each = -(-rows // count)
    machines = f" of {workers} machines" if workers > 1 else ""
    name = type(strategy).__name__
    if workers > 1 and _backend() == "tensorflow":
        name = "MultiWorkerMirroredStrategy"
    text = f"{count} {'GPU' if gpus else 'CPU'}s{machines} ({name}, {each} each"
    if each * count != rows:
        text += f", {each * count - rows} rows of no weight"
    return text + ")"


def _strategy() -> Any:
    """Returns the strategy or distribution in use, or `None`."""
    # What is not imported is not in use.
    keras, tf = (sys.modules.get(name) for name in ("keras", "tensorflow"))
    if keras is not None and keras.backend.backend() == "jax":
        return keras.distribution.distribution()
    if tf is None or not tf.distribute.has_strategy():
        return None
    return tf.distribute.get_strategy()


@functools.cache
def _gather(strategy: Any) -> Any:
    import tensorflow as tf

    def gather(row: Any) -> Any:
        rows = strategy.run(lambda: tf.expand_dims(row, 0))
        return strategy.gather(rows, axis=0)

    return tf.function(gather, reduce_retracing=True)


def _gathered(text: str) -> list[str]:
    """Returns the text of each worker, in their order."""
    with naming_lost_workers(lambda: "while all waited for each other"):
        if _backend() == "jax":
            return processes.gathered(text)
        return _gathered_by_tensorflow(text)


def _gathered_by_tensorflow(text: str) -> list[str]:
    import numpy as np
    import tensorflow as tf

    strategy = _strategy()
    count = strategy.num_replicas_in_sync // worker()[1]

    def of_each(row: Any) -> Any:
        return _gather(strategy)(tf.constant(row)).numpy()[::count]

    values = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    lengths = of_each(np.array([len(values)], np.int32))[:, 0]
    padded = np.zeros([max(1, lengths.max())], np.int32)
    padded[: len(values)] = values
    rows = of_each(padded)
    return [
        bytes(row[:length].astype(np.uint8)).decode()
        for row, length in zip(rows, lengths, strict=True)
    ]
