"""Attention; where there are many scores, without holding them all.

The scores of 1,024 places against each other fill 4 MiB for each head and
image, and are gone over a dozen times. A part of them that a processor's
cache holds is worked through at once, and computed again for the gradient.
Written in `keras.ops`; must not know layers.

References:
    Rabe & Staats, Self-attention Does Not Need O(n^2) Memory, 2021.
"""

from __future__ import annotations

from typing import Any

from keras import ops

# Bytes of float32 scores: of all together from which they are made in
# parts, and of a part at most.
MANY = 2**25
PART = 2**23


def attend(query: Any, key: Any, value: Any) -> Any:
    """`softmax(query @ key) @ value`.

    Args:
        query: Tensor `(N, S, D)`, scaled.
        key: Tensor `(N, D, T)`.
        value: Tensor `(N, T, D)`.

    Returns:
        Tensor `(N, S, D)`.
    """
    parts = number_of_parts(query.shape[0], query.shape[1], key.shape[2])
    if parts is None:
        return ops.matmul(_weights(query, key), value)
    return _in_parts(query, key, value, parts)


def number_of_parts(
    sequences: int | None, rows: int | None, columns: int | None
) -> int | None:
    """How many parts the scores of each sequence are made in.

    Returns:
        A divisor of `rows`, or `None` for all sequences together: if the
        scores are few, or how many is not known.
    """
    if sequences is None or rows is None or columns is None:
        return None
    if 4 * sequences * rows * columns <= MANY:
        return None
    fits = (
        parts
        for parts in range(1, rows + 1)
        if rows % parts == 0 and 4 * rows * columns <= PART * parts
    )
    return next(fits, rows)


def _in_parts(query: Any, key: Any, value: Any, parts: int) -> Any:
    sequences, rows, depth = query.shape
    sequence = ops.repeat(ops.arange(sequences), parts)

    def split(x: Any) -> Any:
        return ops.reshape(x, (-1, rows // parts, x.shape[-1]))

    def join(x: Any) -> Any:
        return ops.reshape(x, (sequences, rows, depth))

    def summed(x: Any, like: Any) -> Any:
        return ops.sum(ops.reshape(x, (-1, parts, *like.shape[1:])), axis=1)

    @ops.custom_gradient
    def attended(query: Any, key: Any, value: Any) -> Any:
        def forward(part: Any) -> Any:
            query, index = part
            weights = _weights(query, ops.take(key, index, axis=0))
            return ops.matmul(weights, ops.take(value, index, axis=0))

        y = join(ops.map(forward, (split(query), sequence)))

        def gradient(*upstream: Any) -> tuple[Any, Any, Any]:
            (dy,) = upstream
            # What the softmax takes off each row.
            level = ops.sum(dy * y, axis=-1, keepdims=True)

            def backward(part: Any) -> tuple[Any, Any, Any]:
                query, dy, level, index = part
                own_key = ops.take(key, index, axis=0)
                own_value = ops.take(value, index, axis=0)
                weights = _weights(query, own_key)
                # The level as one more column: a pass over the scores less.
                slope = ops.matmul(
                    ops.concatenate([dy, -level], axis=-1),
                    ops.transpose(
                        ops.pad(
                            own_value, ((0, 0), (0, 1)), constant_values=1.0
                        )
                    ),
                )
                slope = weights * slope
                return (
                    ops.matmul(slope, ops.transpose(own_key)),
                    ops.matmul(ops.transpose(query), slope),
                    # Not `weights' @ dy`, which takes 1.4 times as long.
                    ops.matmul(ops.transpose(dy), weights),
                )

            given = (split(query), split(dy), split(level), sequence)
            dquery, dkey, dvalue = ops.map(backward, given)
            dvalue = ops.transpose(summed(dvalue, key), (0, 2, 1))
            return join(dquery), summed(dkey, key), dvalue

        return y, gradient

    return attended(query, key, value)


def _weights(query: Any, key: Any) -> Any:
    return ops.softmax(ops.matmul(query, key), axis=-1)
