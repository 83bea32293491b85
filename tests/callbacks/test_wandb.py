"""Weights & Biases' own callback takes our logs, as docs/report.md says."""

import pytest

from keras_sdft.callbacks import Throughput


@pytest.mark.slow
def test_its_callback_receives_the_logs(
    trainer, batches, tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb")
    from wandb.integration.keras import WandbMetricsLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.init(project="keras_sdft", dir=str(tmp_path))
    callbacks = [Throughput(images_per_step=2), WandbMetricsLogger(log_freq=1)]
    trainer.fit(batches, epochs=2, verbose=0, callbacks=callbacks)
    seen = dict(wandb.run.summary)
    wandb.finish()
    assert seen["batch/batch_step"] == 7
    for name in ("loss", "learning_rate", "images_per_second"):
        assert {f"batch/{name}", f"epoch/{name}"} <= set(seen)
    assert seen["batch/learning_rate"] == 0.125
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
