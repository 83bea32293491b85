"""What the networks' kernels compute in JAX."""

import jax

from keras_sdft.models.kernels import gate


def test_only_cpus_take_parts_that_a_cache_holds(monkeypatch):
    of_512_pixels = (8, 64 * 64, 64 * 64)
    assert gate.scores_at_once(*of_512_pixels) == (1, 512)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert gate.scores_at_once(*of_512_pixels) is None
    assert not gate.skips_graph_passes(2**20)
