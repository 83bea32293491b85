"""Embeddings of new tokens beside a frozen table of embeddings.

The table itself is not touched: every other row stays bit for bit what it
was, and has neither gradient nor decay. Must not know tokens' texts.

References:
    Gal et al., An Image is Worth One Word: Personalizing Text-to-Image
    Generation using Textual Inversion, 2022.
"""

from typing import Any

import keras
import numpy as np
from keras import ops


class TokenRows:
    """The rows of new ids, an adapter of an embedding layer.

    Args:
        first_id: Integer, the id of the first row; at least the layer's
            number of rows.
        rows: Float32 array `(vectors, width)`.
        table_size: Integer, rows of the layer's own table.
        name: String, of the variable.
    """

    def __init__(
        self,
        first_id: int,
        rows: np.ndarray,
        table_size: int,
        name: str = "token_rows",
    ):
        self.first_id = first_id
        self.table_size = table_size
        self.rows = keras.Variable(rows, dtype="float32", name=name)

    @property
    def variables(self) -> list[Any]:
        """All variables that a call reads."""
        return [self.rows]

    @property
    def kind(self) -> Any:
        """What tells apart adapters that compute differently."""
        return type(self).__name__, self.first_id, self.table_size

    def inputs(self, inputs: Any) -> Any:
        """Returns ids that the layer's table has."""
        return ops.minimum(ops.cast(inputs, "int32"), self.table_size - 1)

    def __call__(self, inputs: Any, outputs: Any, base: Any) -> Any:
        """Returns `outputs` with this adapter's rows for its ids."""
        place = ops.cast(inputs, "int32") - self.first_id
        count = self.rows.shape[0]
        own = ops.logical_and(place >= 0, place < count)
        rows = ops.take(
            ops.convert_to_tensor(self.rows),
            ops.clip(place, 0, count - 1),
            axis=0,
        )
        rows = ops.cast(rows, outputs.dtype)
        return ops.where(ops.expand_dims(own, -1), rows, outputs)
