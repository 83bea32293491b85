"""What Keras' backend computes on, and how JAX's devices share a training.

Must not know models or training.
"""

import collections
import importlib.util
import math
import os
import warnings
from typing import Any

from keras_sdft import checks

#: The folder in which JAX keeps what it compiled.
COMPILED = os.path.join("~", ".cache", "keras_sdft", "compiled")
_MOST_COMPILED = 4 * 10**9
JAX_STRATEGIES = ("data_parallel", "fully_sharded")
# Sharding a vector of a few kilobytes costs more than it saves.
_SMALL = 2**10


def leave_to_jax() -> None:
    """Keeps TensorFlow, which reads the data, off the GPUs that JAX uses.

    Either would take nearly all of their memory. Does nothing under the
    TensorFlow backend.
    """
    import keras
    import tensorflow as tf

    is_jax = keras.backend.backend() == "jax"
    if not is_jax or not tf.config.get_visible_devices("GPU"):
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        warnings.warn(
            "TensorFlow has taken the GPU's memory already, and JAX may not "
            "find enough. Import keras_sdft.data or keras_sdft.training "
            "before TensorFlow is used.",
            stacklevel=2,
        )


def keep_compiled() -> None:
    """Has JAX keep what it compiles, which takes half a minute and more.

    The programs used longest ago go when the folder has 4 GB. To be called
    before JAX is imported. Does nothing if `JAX_COMPILATION_CACHE_DIR` names
    another folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.expanduser(COMPILED)
    # JAX removes none without it.
    if importlib.util.find_spec("filelock"):
        size = str(_MOST_COMPILED)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", size)


def platform() -> str:
    """Returns `"cpu"`, `"gpu"` or `"tpu"`, what the backend computes on."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend()
    if backend != "tensorflow":
        return "cpu"
    import tensorflow as tf

    devices = tf.config.list_logical_devices()
    others = [one.device_type for one in devices if one.device_type != "CPU"]
    # A TPU comes with devices that are parts of it.
    return "tpu" if "TPU" in others else "gpu" if others else "cpu"


def compute_capability() -> tuple[int, int] | None:
    """Returns the least compute capability of JAX's GPUs.

    `None` if they are not NVIDIA's, or if there are none.
    """
    import jax

    found = [
        str(getattr(one, "compute_capability", "")).split(".")
        for one in jax.local_devices()
    ]
    if not all(len(pair) == 2 and "".join(pair).isdecimal() for pair in found):
        return None
    return min((int(major), int(minor)) for major, minor in found)


def accelerators() -> list[str]:
    """Returns what GPUs or TPUs the backend computes on, a name for each."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        found = jax.devices()
        return [one.device_kind for one in found if one.platform != "cpu"]
    import tensorflow as tf

    # Those that a program leaves to others are no logical devices.
    count = len(tf.config.list_logical_devices("GPU"))
    found = tf.config.list_physical_devices("GPU")[:count]
    details = tf.config.experimental.get_device_details
    return [details(gpu).get("device_name", "GPU") for gpu in found]


def accelerator_memory() -> int | None:
    """Returns the bytes that a program may take of an accelerator.

    Of the one that has the least; `None` is not known.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        stats = [one.memory_stats() or {} for one in jax.local_devices()]
        limits = [one["bytes_limit"] for one in stats if "bytes_limit" in one]
        return min(limits, default=None)
    import tensorflow as tf

    # TensorFlow's limit already leaves out what others hold.
    with tf.compat.v1.Session() as session:
        limits = [
            device.memory_limit_bytes
            for device in session.list_devices()
            if device.device_type == "GPU"
        ]
    return min(limits, default=None)


def peak_memory() -> list[int]:
    """Returns the most bytes that this program has held of each accelerator."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        stats = [one.memory_stats() or {} for one in jax.local_devices()]
        return [one["peak_bytes_in_use"] for one in stats if one]
    import tensorflow as tf

    names = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    get_info = tf.config.experimental.get_memory_info
    return [
        int(get_info(name.removeprefix("/device:"))["peak"]) for name in names
    ]


def share(strategy: str) -> Any:
    """Makes all models from here on live on all devices, under JAX.

    The program means the whole batch, wherever its rows are computed, so
    that a training equals that of one device up to rounding. Of several
    processes each has the models on its own devices; a training step joins
    them.

    Args:
        strategy: `"data_parallel"`: each device holds all weights, and
            computes its rows of a batch. `"fully_sharded"`: each device also
            holds only its part of each weight, of its moments and of its
            average; each process holds all of them. `"none"`: one device.

    Returns:
        The `keras.distribution.Distribution`, or `None` for one device.

    Raises:
        ValueError: If there is no such strategy, or if the processes'
            devices do not fit it.
    """
    import keras

    checks.one_of("strategy", strategy, (*JAX_STRATEGIES, "none"))
    made = None
    if strategy != "none":
        made = _shared(strategy)
    keras.distribution.set_distribution(made)
    return made


def _shared(strategy: str) -> Any:
    import jax
    import keras

    _check_processes(strategy)
    own = [f"{one.platform}:{one.id}" for one in jax.local_devices()]
    mesh = keras.distribution.DeviceMesh((len(own),), ["batch"], own)
    # Those of other processes compute rows too.
    everywhere = property(lambda _: jax.device_count())

    class DataParallel(keras.distribution.DataParallel):
        """Has all weights on each device."""

        num_model_replicas = everywhere

    class FullySharded(keras.distribution.ModelParallel):
        """Divides each weight among the devices, along its longest axis."""

        num_model_replicas = everywhere

        def get_variable_layout(self, variable: Any) -> Any:
            axes = sharded_axes(tuple(variable.shape), len(own))
            return keras.distribution.TensorLayout(axes, mesh)

    if strategy == "data_parallel":
        return DataParallel(mesh, auto_shard_dataset=False)
    return FullySharded(
        layout_map=keras.distribution.LayoutMap(mesh),
        batch_dim_name="batch",
        auto_shard_dataset=False,
    )


def _check_processes(strategy: str) -> None:
    """Raises `ValueError` for devices that processes cannot share."""
    import jax

    count, own = jax.process_count(), jax.local_device_count()
    if count == 1:
        return
    found = collections.Counter(d.process_index for d in jax.devices())
    if len(set(found.values())) > 1:
        raise ValueError(
            "All processes must have as many devices. Received: "
            f"{[found[index] for index in range(count)]}."
        )
    if strategy == "fully_sharded" and own == 1:
        raise ValueError(
            "`strategy=fully_sharded` divides the weights among the devices "
            f"of a process, and each of the {count} processes has one. Start "
            "one process for each machine, with all devices of it "
            "(JAX_LOCAL_DEVICE_IDS=0,1,2,3 where JAX would take one), or use "
            "strategy=data_parallel."
        )


def sharded_axes(shape: tuple[int, ...], devices: int) -> list[str | None]:
    """Returns which axis of a weight is divided among the devices.

    Args:
        shape: The weight's.
        devices: Integer >= 1.

    Returns:
        List of `"batch"`, the mesh's axis, for the longest axis that can be
        divided, and `None` for all others.
    """
    axes: list[str | None] = [None] * len(shape)
    fitting = [i for i, side in enumerate(shape) if side % devices == 0]
    if fitting and math.prod(shape) >= _SMALL:
        axes[max(fitting, key=lambda index: (shape[index], index))] = "batch"
    return axes
