"""How much memory training may take: of the GPU, or of this machine."""

from __future__ import annotations

from keras_sdft.host_memory import available_on_host


def available_memory() -> tuple[str, int | None]:
    """Returns `"GPU"` or `"CPU"`, and the bytes that training may take there.

    What this process has taken already is among them. `None` is not known.
    """
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return "CPU", available_on_host()
    # TensorFlow's limit already leaves out what others hold.
    with tf.compat.v1.Session() as session:
        limits = [
            device.memory_limit_bytes
            for device in session.list_devices()
            if device.device_type == "GPU"
        ]
    return "GPU", min(limits, default=None)
