"""Does memory stay flat over a long run?

    python -m benchmarks.long_run --steps 20000

Trains a small network with checkpoints, previews, validation and logs, and
prints what is resident after every thousand steps, and the growth from the
first thousand on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks._crash_inputs import caption
from benchmarks._crash_inputs import photo
from benchmarks._crash_inputs import write_model
from benchmarks.memory import status

EPOCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    # First: it switches oneDNN on.
    import keras_sdft

    # isort: split
    import keras

    from keras_sdft import callbacks
    from keras_sdft import data

    run = Path(tempfile.mkdtemp(prefix="long-run-"))
    write_model(run)
    sd = keras_sdft.StableDiffusion.from_preset(run / "model", 64, 64)
    trainer = keras_sdft.Trainer(sd, ema_decay=0.999)
    trainer.compile()
    resident: dict[int, int] = {}
    begin = time.monotonic()

    def look(epoch: int, logs: dict[str, float]) -> None:
        step = (epoch + 1) * EPOCH
        if step % 1000 == 0:
            resident[step] = status("VmRSS")
            seconds = time.monotonic() - begin
            megabytes = resident[step] / 1e6
            print(f"{step:,}: {megabytes:.1f} MB, {seconds:.0f} s", flush=True)

    pairs = [(photo(8, number), caption(number)) for number in range(8)]
    load = {"resolution": 64, "batch_size": 1}
    trainer.fit(
        data.load(
            pairs, sd.tokenizer, crop="random", batches_per_epoch=EPOCH, **load
        ),
        epochs=options.steps // EPOCH,
        validation_data=data.load(pairs[:1], sd.tokenizer, **load),
        callbacks=[
            callbacks.HistoryFile(run / "history.csv"),
            callbacks.TensorBoard(run / "logs", 10),
            callbacks.Previews(
                "a dog", run / "previews", every_steps=500, num_steps=1
            ),
            callbacks.Checkpoint(run / "checkpoints", every_steps=250),
            keras.callbacks.LambdaCallback(on_epoch_end=look),
        ],
        verbose=0,
    )
    first, last = resident[1000], resident[max(resident)]
    print(f"growth from step 1,000 on: {100 * (last / first - 1):+.2f} %")


if __name__ == "__main__":
    main()
