"""What optimizers need of TensorFlow itself, beside `keras.ops`."""

from typing import Any

import tensorflow as tf

from keras_sdft.training.gradients import NOT_FINITE


def global_norm(gradients: list[Any], count: int = 0) -> Any:
    """Computes the norm of all gradients together, a float32 scalar.

    Args:
        gradients: List of tensors.
        count: Integer, the terms that are added. Sums of as many terms are
            rounded alike, whether or not some gradients are left out.

    Raises:
        tf.errors.InvalidArgumentError: With `NOT_FINITE`, if it is NaN or
            infinite; not where XLA compiles it.
    """
    # Halves of squared norms: one operation per gradient.
    squares = [tf.cast(tf.nn.l2_loss(g), tf.float32) for g in gradients]
    squares += [tf.zeros(())] * (count - len(squares))
    norm = tf.sqrt(2.0 * tf.add_n(squares))
    return tf.debugging.check_numerics(norm, NOT_FINITE)


def is_known(variable: Any) -> bool:
    """Returns whether a variable's value can be read now, in Python."""
    return tf.executing_eagerly()
