import numpy as np
import pytest
import tensorflow as tf

from keras_sdft.models.kernels import attention
from keras_sdft.models.kernels import gate


@pytest.fixture
def given():
    generator = np.random.default_rng(0)
    shapes = [(3, 12, 4), (3, 4, 10), (3, 10, 4), (3, 12, 4)]
    return [
        tf.constant(generator.normal(size=shape).astype("float32"))
        for shape in shapes
    ]


def value_and_gradients(query, key, value, weights):
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        y = attention.attend_sequences(query, key, value)
        loss = tf.reduce_sum(y * weights)
    return [y, *tape.gradient(loss, [query, key, value])]


@pytest.fixture
def gpu(monkeypatch):
    """The limits of another device; the arithmetic stays a CPU's."""
    monkeypatch.setattr(gate, "on_cpu", lambda: False)


@pytest.mark.parametrize("at_once", [(1, 12), (1, 3), (3, 12)])
@pytest.mark.parametrize("graph", [False, True])
def test_parts_equal_the_reference(given, monkeypatch, at_once, graph):
    expected = value_and_gradients(*given)
    monkeypatch.setattr(gate, "scores_at_once", lambda *sizes: at_once)
    monkeypatch.setattr(attention, "reference", None)
    function = value_and_gradients
    found = (tf.function(function) if graph else function)(*given)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.fixture(params=["cpu", "gpu"])
def limits(request, monkeypatch):
    """Small limits, of a CPU's kind or of a GPU's."""
    monkeypatch.setattr(gate, "on_cpu", lambda: request.param == "cpu")
    for name in ("SCORES_ON_CPU", "SCORES_ELSEWHERE"):
        monkeypatch.setattr(gate, name, 4 * 24 * 24)
    for name in ("PART_ON_CPU", "PART_ELSEWHERE"):
        monkeypatch.setattr(gate, name, 4 * 12 * 24)


@pytest.mark.parametrize(
    ("sequences", "rows"),
    [(1, 24), (4, 6), (6, 24), (5, 24), (6, 12), (4, 12), (3, 48), (2, 23)],
)
def test_parts_of_sizes_that_a_graph_leaves_open(limits, sequences, rows):
    generator = np.random.default_rng(0)
    shapes = [(rows, 4), (4, 24), (24, 4), (rows, 4)]
    given = [
        tf.constant(generator.normal(size=(sequences, *shape)), "float32")
        for shape in shapes
    ]
    spec = [
        tf.TensorSpec([None, None, 4]),
        tf.TensorSpec([None, 4, None]),
        *[tf.TensorSpec([None, None, 4])] * 2,
    ]
    # By XLA too, for which sizes are open until it compiles: one case of each.
    function = tf.function(
        value_and_gradients,
        input_signature=spec,
        jit_compile=(sequences, rows) == (6, 24),
    )
    found = function(*given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "scores_at_once", lambda *sizes: None)
        expected = value_and_gradients(*given)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "at_once"),
    [
        ((8, 64 * 64, 64 * 64), (1, 512)),
        ((8, 96 * 96, 96 * 96), (1, 144)),
        ((32, 32 * 32, 32 * 32), (1, 1024)),
        ((8, 32 * 32, 32 * 32), (8, 32 * 32)),
        ((8, 64 * 64, 77), (8, 64 * 64)),
    ],
)
def test_parts_in_a_graph_are_as_large(sizes, at_once):
    found = gate.scores_at_once_in_graph(*map(tf.constant, sizes))
    assert tuple(map(int, found)) == at_once


def test_parts_lose_no_more_digits_in_bfloat16(monkeypatch):
    generator = np.random.default_rng(0)
    shapes = [(2, 64, 8), (2, 8, 64), (2, 64, 8), (2, 64, 8)]
    given = [tf.constant(generator.normal(size=s), "bfloat16") for s in shapes]
    # A level that is large against its differences within a row.
    given[2] = given[2] + 4
    exact = value_and_gradients(*[tf.cast(x, "float64") for x in given])
    whole = value_and_gradients(*given)
    monkeypatch.setattr(gate, "scores_at_once", lambda *sizes: (1, 16))
    parts = value_and_gradients(*given)

    def error(found, name):
        difference = tf.cast(found[name], "float64") - exact[name]
        return tf.norm(difference) / tf.norm(exact[name])

    for name in range(4):
        assert error(parts, name) < 1.2 * error(whole, name)


def test_only_many_scores_are_computed_in_parts():
    # SD 1.x at 256, 512 and 768 pixels, one image.
    assert gate.scores_at_once(8, 32 * 32, 32 * 32) is None
    assert gate.scores_at_once(8, 64 * 64, 64 * 64) == (1, 512)
    assert gate.scores_at_once(8, 96 * 96, 96 * 96) == (1, 192)
    # The text is short.
    assert gate.scores_at_once(8, 32 * 32, 77) is None


def test_other_devices_take_whole_sequences(gpu):
    # Of 512 pixels: 64 MiB for each head; a batch of 2, of 4, and of 5.
    assert gate.scores_at_once(16, 64 * 64, 64 * 64) is None
    assert gate.scores_at_once(32, 64 * 64, 64 * 64) == (16, 64 * 64)
    assert gate.scores_at_once(40, 64 * 64, 64 * 64) == (10, 64 * 64)
    # Of 1,536 pixels: more than 1 GiB for one.
    assert gate.scores_at_once(8, 192 * 192, 192 * 192) == (1, 6144)


# Of float32 no kernel, of SD 1.x' 160 none on Ampere, Ada and Blackwell, and
# of its 77 tokens none.
CUDNN = [
    ("jax", "gpu", (9, 0), "bfloat16", 160, (256, 256), True),
    ("jax", "gpu", (9, 0), "bfloat16", 264, (256, 256), False),
    ("jax", "gpu", (9, 0), "bfloat16", 40, (4096, 77), False),
    ("jax", "gpu", (8, 0), "bfloat16", 80, (1024, 1024), True),
    ("jax", "gpu", (8, 9), "float16", 40, (4096, 4096), True),
    ("jax", "gpu", (8, 0), "float16", 160, (256, 256), False),
    ("jax", "gpu", (10, 0), "bfloat16", 128, (64, 64), True),
    ("jax", "gpu", (12, 0), "bfloat16", 160, (256, 256), False),
    ("jax", "gpu", (8, 0), "bfloat16", 12, (64, 64), False),
    ("jax", "gpu", (9, 0), "float32", 64, (64, 64), False),
    ("jax", "gpu", (7, 5), "float16", 64, (64, 64), False),
    ("jax", "gpu", None, "bfloat16", 64, (64, 64), False),
    ("jax", "tpu", None, "bfloat16", 64, (64, 64), False),
    ("jax", "cpu", None, "bfloat16", 64, (64, 64), False),
    ("tensorflow", "gpu", (9, 0), "bfloat16", 64, (64, 64), False),
]


def test_where_cudnn_computes_attention():
    for *case, expected in CUDNN:
        assert gate.cudnn_attends(*case) is expected, case
    assert not gate.attends_by_cudnn("bfloat16", 64, 64, 64)
