"""Attention; where there are many scores, without holding them all.

The scores of 1,024 places against each other fill 4 MiB for each head and
image, and are passed over a dozen times. A part of them that a processor's
cache holds is computed at once, and again for the gradient. On GPUs cuDNN
does so within a kernel, where JAX reaches it. Written in `keras.ops`
otherwise; must not know layers.

References:
    Rabe & Staats, Self-attention Does Not Need O(n^2) Memory, 2021.
    Dao, FlashAttention-2, 2023.
"""

from typing import Any

from keras import ops

from keras_sdft.models.kernels import gate


def attend(query: Any, key: Any, value: Any) -> Any:
    """Computes `softmax(query @ transposed key) @ value` of each head.

    Args:
        query: Tensor `(B, S, H, D)`, scaled.
        key: Tensor `(B, T, H, D)`.
        value: Tensor `(B, T, H, D)`.

    Returns:
        Tensor `(B, S, H, D)`.
    """
    heads, size = query.shape[2:]
    places, length = ops.shape(query)[1], ops.shape(key)[1]
    if gate.attends_by_cudnn(query.dtype, size, places, length):
        return fused(query, key, value)
    attended = attend_sequences(
        ops.reshape(ops.transpose(query, (0, 2, 1, 3)), (-1, places, size)),
        ops.reshape(ops.transpose(key, (0, 2, 3, 1)), (-1, size, length)),
        ops.reshape(ops.transpose(value, (0, 2, 1, 3)), (-1, length, size)),
    )
    attended = ops.reshape(attended, (-1, heads, places, size))
    return ops.transpose(attended, (0, 2, 1, 3))


def fused(
    query: Any, key: Any, value: Any, implementation: str = "cudnn"
) -> Any:
    """Computes what `attend` does, by JAX.

    Args:
        query, key, value: As for `attend`; of cuDNN float16 or bfloat16.
        implementation: As for `jax.nn.dot_product_attention`.
    """
    import jax

    return jax.nn.dot_product_attention(
        query, key, value, scale=1.0, implementation=implementation
    )


def attend_sequences(query: Any, key: Any, value: Any) -> Any:
    """Computes `softmax(query @ key) @ value`.

    Args:
        query: Tensor `(N, S, D)`, scaled.
        key: Tensor `(N, D, T)`.
        value: Tensor `(N, T, D)`.

    Returns:
        Tensor `(N, S, D)`.
    """
    sizes = (query.shape[0], query.shape[1], key.shape[2])
    if None in sizes:
        (sequences, rows, _), columns = ops.shape(query), ops.shape(key)[2]
        at_once = gate.scores_at_once_in_graph(sequences, rows, columns)
        return _in_parts(query, key, value, *at_once)
    at_once = gate.scores_at_once(*sizes)
    if at_once is None:
        return reference(query, key, value)
    return _in_parts(query, key, value, *at_once)


def reference(query: Any, key: Any, value: Any) -> Any:
    """Computes what `attend_sequences` does, with all scores at once."""
    return ops.matmul(_weights(query, key), value)


def _weights(query: Any, key: Any) -> Any:
    return ops.softmax(ops.matmul(query, key), axis=-1)


def _in_parts(query: Any, key: Any, value: Any, group: Any, part: Any) -> Any:
    """Computes `part` rows of `group` sequences at once."""
    sequences, rows, depth = ops.shape(query)
    parts = rows // part
    index = ops.repeat(ops.arange(sequences // group), parts)

    def split(x: Any) -> Any:
        return grouped(ops.reshape(x, (-1, part, x.shape[-1])))

    def grouped(x: Any) -> Any:
        if isinstance(group, int) and group == 1:
            return x
        return ops.reshape(x, (-1, group, *ops.shape(x)[1:]))

    def join(x: Any) -> Any:
        return ops.reshape(x, (sequences, rows, depth))

    def summed(x: Any, like: Any) -> Any:
        shape = (-1, parts, *ops.shape(like)[1:])
        return ops.sum(ops.reshape(x, shape), axis=1)

    @ops.custom_gradient
    def attended(query: Any, key: Any, value: Any) -> Any:
        keys, values = grouped(key), grouped(value)

        def forward(part: Any) -> Any:
            query, index = part
            weights = _weights(query, ops.take(keys, index, axis=0))
            return ops.matmul(weights, ops.take(values, index, axis=0))

        y = join(ops.map(forward, (split(query), index)))

        def gradient(*upstream: Any) -> tuple[Any, Any, Any]:
            (dy,) = upstream
            # What the softmax takes off each row.
            level = ops.sum(_float32(dy) * _float32(y), axis=-1, keepdims=True)

            def backward(part: Any) -> tuple[Any, Any, Any]:
                query, dy, level, index = part
                own_key = ops.take(keys, index, axis=0)
                own_value = ops.take(values, index, axis=0)
                weights = _weights(query, own_key)
                slope = weights * _slope(dy, own_value, level)
                return (
                    ops.matmul(slope, _transposed(own_key)),
                    ops.matmul(_transposed(query), slope),
                    # Not `weights' @ dy`, which takes 1.4 times as long.
                    ops.matmul(_transposed(dy), weights),
                )

            given = (split(query), split(dy), split(level), index)
            dquery, dkey, dvalue = ops.map(backward, given)
            dvalue = _transposed(summed(dvalue, key))
            return join(dquery), summed(dkey, key), dvalue

        return y, gradient

    return attended(query, key, value)


def _slope(dy: Any, value: Any, level: Any) -> Any:
    """Computes `dy @ value' - level`, whose difference must be float32."""
    if dy.dtype != level.dtype:
        product = _float32(ops.matmul(dy, _transposed(value)))
        return ops.cast(product - level, dy.dtype)
    # The level as one more column: a pass over the scores less.
    widths = [(0, 0)] * (len(value.shape) - 1) + [(0, 1)]
    return ops.matmul(
        ops.concatenate([dy, -level], axis=-1),
        _transposed(ops.pad(value, widths, constant_values=1.0)),
    )


def _transposed(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)


def _float32(x: Any) -> Any:
    return ops.cast(x, "float32")
