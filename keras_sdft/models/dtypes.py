"""Building layers under a dtype policy of our own choosing."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def dtype_policy_scope(dtype: str | None) -> Iterator[None]:
    """Context manager in which new layers have the dtype policy `dtype`.

    KerasCV's classes take no `dtype`, so the global policy is the only way
    to tell them. `None` changes nothing.
    """
    if dtype is None:
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
