"""The command in two processes over loopback: ended, killed, gone on with."""

import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from tests.workers import environments

pytestmark = pytest.mark.slow

STEPS = 12
FLAGS = [
    *("--model=tiny", "--data=photos", "--resolution=64", "--batch_size=4"),
    *("--learning_rate=1e-4", "--no_cache"),
    *("--checkpoint_every_steps=2", f"--max_train_steps={STEPS}"),
]


def start(folder, flags, count):
    """Starts the command in `count` processes; returns them."""
    started = []
    for environment in environments(count):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_sdft", "train", *flags],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def outcome(processes):
    """Waits; returns the exit codes and what was printed."""
    try:
        texts = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, texts, strict=True):
        print(f"--- exit code {process.returncode}\n{text}")
    return [process.returncode for process in processes], texts


def wait_for(path, processes):
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def weights(run):
    found = []
    with h5py.File(run / "weights/diffusion_model.weights.h5") as file:
        file.visititems(
            lambda _, item: (
                found.append(item[()].ravel())
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return np.concatenate(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("several")
    (folder / "photos").mkdir()
    draws = np.random.default_rng(0)
    for number in range(8):
        path = folder / "photos" / f"{number}.png"
        pixels = draws.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"a photo of a dog {number}")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    codes, texts = outcome(start(folder, [*FLAGS, "--output_dir=alone"], 1))
    assert codes == [0], texts[0]
    return weights(folder / "alone")


def test_a_killed_run_goes_on_with_two_workers_or_one(folder, alone):
    both = start(folder, [*FLAGS, "--output_dir=both"], 2)
    wait_for(folder / "both/checkpoints/step_00000004", both)
    both[1].kill()
    codes, texts = outcome(both)
    assert codes == [2, -signal.SIGKILL]
    assert "keras-sdft: error: Another worker was lost" in texts[0]
    assert "after step" in texts[0]
    shutil.copytree(folder / "both", folder / "one")
    for name, count in (("both", 2), ("one", 1)):
        codes, texts = outcome(start(folder, [f"--resume={name}"], count))
        assert codes == [0] * count, texts[0]
        assert "goes on after step" in texts[0]
        apart = np.abs(weights(folder / name) - alone)
        print(f"{name}: max {apart.max():.1e}, mean {apart.mean():.1e}")
        assert apart.max() < 1e-4
        assert apart.mean() < 1e-7


def test_a_signal_to_the_second_worker_ends_both_in_order(folder):
    both = start(folder, [*FLAGS, "--output_dir=told"], 2)
    wait_for(folder / "told/checkpoints/step_00000002", both)
    both[1].send_signal(signal.SIGTERM)
    codes, texts = outcome(both)
    assert codes == [128 + signal.SIGTERM] * 2
    assert "Interrupted after step" in texts[0]
    assert "with a checkpoint" in texts[0]
    assert (folder / "told/weights/diffusion_model.weights.h5").exists()
