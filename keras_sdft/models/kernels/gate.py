"""Where each fast path pays: by backend, by device and by size.

The limits of CPUs were measured on two cores, see benchmarks/NOTES.md; on
GPUs and TPUs the backend's own kernels are taken. Must not know how a fast
path works.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_sdft import devices

# Channels up to which TensorFlow's convolutions are as fast as a product of
# matrices, places of all images above which two of the three products are
# not, and bytes of neighbourhoods that are too many.
NARROW_CHANNELS = 256
FEW_PLACES = 512
LARGE_NEIGHBOURHOODS = 2**28

# Weights from which a step takes seconds, and what all passes of TensorFlow's
# graph optimizer save in each, over the functions that it calls, is worth more
# than the second that they take once.
MANY_WEIGHTS = 2**28

# Bytes of float32 scores up to which they are computed all at once, and of
# those computed at once beyond: a CPU's cache should hold them, while an
# accelerator should not wait for small ones.
SCORES_ON_CPU, PART_ON_CPU = 2**25, 2**23
SCORES_ELSEWHERE = PART_ELSEWHERE = 2**30


_inlined: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "inlined_blocks", default=False
)


def on_cpu() -> bool:
    """Returns whether CPUs are all that the backend computes on.

    No path that was made for CPUs is taken where this is false.
    """
    return devices.platform() == "cpu"


def traces_blocks() -> bool:
    """Returns whether blocks of equal shapes share a traced function.

    It saves Python's time for each operation of a graph, which no device
    changes; other backends trace in another way.
    """
    return keras.backend.backend() == "tensorflow" and not _inlined.get()


@contextlib.contextmanager
def inlined_blocks() -> Iterator[None]:
    """Context manager in which blocks share no functions.

    XLA inlines them; inside of a loop it cannot compile their gradients,
    whose constants then come from outside of the function.
    """
    token = _inlined.set(True)
    try:
        yield
    finally:
        _inlined.reset(token)


def compiles_by_xla() -> bool:
    """Returns whether XLA compiles the loss and its gradients by default.

    On two cores it took seven times as long as TensorFlow to begin; JAX does
    nothing else.
    """
    return devices.platform() == "gpu"


def skips_graph_passes(weights: int) -> bool:
    """Returns whether fewer passes go over the functions that a step calls.

    Args:
        weights: Integer, how many numbers learn.
    """
    return weights < MANY_WEIGHTS and on_cpu()


def convolves_by_products(
    images: Any, kernel: Any
) -> tuple[Any, Any, Any] | None:
    """Returns where a convolution is computed as products of matrices.

    Args:
        images: Tensor `(B, H, W, C)`.
        kernel: Tensor `(K, K, C, D)`.

    Returns:
        Three booleans, whether it is forwards, to the inputs' gradient and to
        the kernel's: scalar tensors where a graph leaves a size open, as that
        of images in buckets. `None` for nowhere.
    """
    if keras.backend.backend() != "tensorflow" or images.dtype != "float32":
        return None
    if min(kernel.shape[2:]) <= NARROW_CHANNELS or not on_cpu():
        return None
    shape = tuple(images.shape)
    batch, height, width, channels = (
        ops.shape(images) if None in shape else shape
    )
    places = batch * height * width
    few = places <= FEW_PLACES
    # By bytes of a place, as the product of all exceeds an int32.
    neighbourhood = 4 * channels * kernel.shape[0] * kernel.shape[1]
    fits = places <= LARGE_NEIGHBOURHOODS // neighbourhood
    if fits is False:
        return None
    # A single large image is what TensorFlow's forward kernel is slow at.
    return (few | (batch == 1)) & fits, few, fits


def attends_by_cudnn(
    dtype: Any, head_size: int, rows: int, columns: int
) -> bool:
    """Returns whether attention is computed by cuDNN's fused kernels.

    `keras.config.disable_flash_attention()` switches them off.

    Args:
        dtype: Of query, key and value.
        head_size: Integer.
        rows: Integer, queries of a sequence.
        columns: Integer, keys of a sequence.
    """
    backend = keras.backend.backend()
    if backend != "jax" or keras.config.is_flash_attention_enabled() is False:
        return False
    return cudnn_attends(
        backend,
        devices.platform(),
        devices.compute_capability(),
        keras.backend.standardize_dtype(dtype),
        head_size,
        (rows, columns),
    )


def cudnn_attends(
    backend: str,
    platform: str,
    capability: tuple[int, int] | None,
    dtype: str,
    head_size: int,
    lengths: tuple[int, int],
) -> bool:
    """Returns whether cuDNN computes attention and its gradient.

    Forwards alone Ampere would take larger heads, which JAX refuses. Of odd
    lengths, such as the 77 of a text, JAX 0.10 refuses the gradient, and
    their scores are few.

    Args:
        backend: String, Keras' backend. That of TensorFlow has no such
            kernels.
        platform: String, as `devices.platform`.
        capability: Compute capability of the GPU, or `None` for no NVIDIA's.
        dtype: String, of query, key and value.
        head_size: Integer.
        lengths: Pair of integers, queries and keys of a sequence.

    References:
        NVIDIA's support matrix of cuDNN 9.18. Blackwell's gradient takes no
        more than 128 in NVIDIA's Transformer Engine.
    """
    if (backend, platform) != ("jax", "gpu") or capability is None:
        return False
    if dtype not in ("float16", "bfloat16") or capability < (8, 0):
        return False
    most = 256 if capability[0] == 9 else 128
    odd = any(length % 2 for length in lengths)
    return head_size <= most and head_size % 8 == 0 and not odd


def scores_at_once(
    sequences: int, rows: int, columns: int
) -> tuple[int, int] | None:
    """Returns how much of an attention's scores is computed at once.

    Args:
        sequences: Integer, batch times heads.
        rows: Integer, queries of a sequence.
        columns: Integer, keys of a sequence.

    Returns:
        Pair of a divisor of `sequences` and one of `rows`; `None` for all
        scores, if they are few.
    """
    cpu = on_cpu()
    sequence = 4 * rows * columns
    if sequences * sequence <= (SCORES_ON_CPU if cpu else SCORES_ELSEWHERE):
        return None
    part = PART_ON_CPU if cpu else PART_ELSEWHERE
    if sequence > part or cpu:
        return 1, _largest_divisor(rows, part / (4 * columns))
    return _largest_divisor(sequences, part / sequence), rows


def scores_at_once_in_graph(
    sequences: Any, rows: Any, columns: Any
) -> tuple[Any, Any]:
    """Computes what `scores_at_once` does of sizes that a graph leaves open.

    So are those of a batch from one of several buckets. Divisors are powers
    of two here, which a graph finds without a search.

    Args:
        sequences: Integer or int32 scalar, batch times heads.
        rows: Likewise, queries of a sequence.
        columns: Likewise, keys of a sequence.

    Returns:
        Pair of int32 scalars, as those of `scores_at_once`; both sizes
        themselves where the scores are few.
    """
    cpu = on_cpu()
    part = PART_ON_CPU if cpu else PART_ELSEWHERE
    # In float32: the products exceed an int32.
    sequence = 4.0 * ops.cast(rows, "float32") * ops.cast(columns, "float32")
    scores = sequence * ops.cast(sequences, "float32")
    few = scores <= (SCORES_ON_CPU if cpu else SCORES_ELSEWHERE)
    group = 1
    if not cpu:
        several = sequences // _dividing_power(sequences, scores / part)
        group = ops.where(sequence > part, 1, several)
    rows_at_once = rows // _dividing_power(rows, sequence / part)
    return ops.where(few, sequences, group), ops.where(few, rows, rows_at_once)


def _dividing_power(number: Any, parts: Any) -> Any:
    """Returns a power of two that divides `number`, from `parts` on if any."""
    exponent = ops.ceil(ops.log2(ops.maximum(parts, 1.0)))
    largest = ops.bitwise_and(number, -number)
    return ops.minimum(ops.cast(2.0**exponent, "int32"), largest)


def _largest_divisor(number: int, limit: float) -> int:
    """Returns the largest divisor of `number` up to `limit`, at least 1."""
    divisors = (n for n in range(1, number + 1) if number % n == 0)
    return max(n for n in divisors if n <= max(limit, 1))
