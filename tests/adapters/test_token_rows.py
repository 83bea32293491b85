"""Rows of new tokens: what is looked up, and what learns."""

import keras
import numpy as np
import tensorflow as tf

from keras_sdft.adapters.token_rows import TokenRows
from keras_sdft.models import adapted


def test_new_ids_give_their_rows_and_others_the_table():
    layer = keras.layers.Embedding(5, 3)
    layer.build((None,))
    table = np.array(layer.embeddings)
    first = np.arange(6, dtype="float32").reshape(2, 3)
    second = -np.ones((1, 3), "float32")
    for start, rows in ((5, first), (7, second)):
        adapted.attach(layer, TokenRows(start, rows, table_size=5))
    ids = np.array([[4, 5, 6], [7, 0, 5]], "int32")
    expected = np.concatenate([table, first, second])[ids]
    np.testing.assert_array_equal(layer(ids), expected)
    traced = tf.function(layer)
    np.testing.assert_array_equal(traced(tf.constant(ids)), expected)


def test_only_rows_that_were_looked_up_have_a_gradient():
    layer = keras.layers.Embedding(5, 3)
    layer.build((None,))
    layer.trainable = False
    adapter = TokenRows(5, np.ones((2, 3), "float32"), table_size=5)
    adapted.attach(layer, adapter)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([0, 6, 6], "int32")))
    gradient = tf.convert_to_tensor(tape.gradient(loss, adapter.rows.value))
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [2, 2, 2]])
