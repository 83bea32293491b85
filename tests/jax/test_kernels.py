"""What the networks' kernels compute in JAX."""

from types import SimpleNamespace

import jax
import keras
import numpy as np
from jax import numpy as jnp

from keras_sdft import devices
from keras_sdft.models.kernels import attention
from keras_sdft.models.kernels import custom_gradients
from keras_sdft.models.kernels import gate


def test_only_cpus_take_parts_that_a_cache_holds(monkeypatch):
    of_512_pixels = (8, 64 * 64, 64 * 64)
    assert gate.scores_at_once(*of_512_pixels) == (1, 512)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert gate.scores_at_once(*of_512_pixels) is None
    assert not gate.skips_graph_passes(2**20)


def on_gpu(monkeypatch, *capabilities):
    found = [
        SimpleNamespace(platform="gpu", compute_capability=c)
        for c in capabilities
    ]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: found)


def test_the_compute_capability_is_the_least(monkeypatch):
    assert devices.compute_capability() is None
    on_gpu(monkeypatch, "9.0", "8.6")
    assert devices.compute_capability() == (8, 6)
    on_gpu(monkeypatch, "10.0", "12.0")
    assert devices.compute_capability() == (10, 0)
    on_gpu(monkeypatch, "gfx942")
    assert devices.compute_capability() is None


def test_fused_attention_is_asked_for_on_a_gpu(monkeypatch):
    asked, original = [], attention.fused

    def fused(query, key, value):
        asked.append(query.dtype)
        return original(query, key, value, "xla")

    def attend(dtype, tokens=4):
        x = jnp.ones((1, 4, 2, 8), dtype)
        text = jnp.ones((1, tokens, 2, 8), dtype)
        y = attention.attend(x, text, text)
        assert y.shape == x.shape and y.dtype == x.dtype

    attend("bfloat16")
    on_gpu(monkeypatch, "8.0")
    monkeypatch.setattr(attention, "fused", fused)
    for dtype in ("bfloat16", "float16", "float32"):
        attend(dtype)
    attend("bfloat16", tokens=77)
    keras.config.disable_flash_attention()
    try:
        attend("bfloat16")
    finally:
        keras.config.enable_flash_attention()
    assert asked == ["bfloat16", "float16"]


def test_fused_attention_equals_ours():
    """Of self-attention and of a text, in float32."""
    generator = np.random.default_rng(0)

    def draw(length):
        shape = (2, length, 3, 40)
        return generator.normal(0, 0.3, shape).astype("float32")

    def value_and_gradients(function, query, key, value, weights):
        def loss(*given):
            y = function(*given)
            return jnp.sum(y * weights), y

        found = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return jax.tree.leaves(found)

    for length in (64, 77):
        given = draw(64), draw(length), draw(length), draw(64)
        ours = value_and_gradients(attention.attend, *given)
        fused = value_and_gradients(
            lambda *xs: attention.fused(*xs, "xla"), *given
        )
        for a, b in zip(ours, fused, strict=True):
            norm = np.linalg.norm(a)
            assert np.linalg.norm(np.asarray(a) - b) < 1e-6 * norm


def test_normalizations_keep_half_precision_alone():
    scale = jnp.ones(64)

    def group(x):
        return custom_gradients.group_normalization(
            x, scale, scale, 4, 1e-5, swish=True
        )

    def layer(x):
        return custom_gradients.layer_normalization(x, scale, scale, 1e-5)

    for function, shape in ((group, (2, 8, 8, 64)), (layer, (128, 64))):
        x = jnp.ones(shape, "bfloat16")
        _, backward = jax.vjp(function, x)
        kept = [a for a in jax.tree.leaves(backward) if a.size >= x.size]
        assert [a.dtype for a in kept] == ["bfloat16"]
