import os
import signal
import subprocess
import sys
import time

from keras_sdft.callbacks import Interruption
from keras_sdft.callbacks import interruption


def test_the_first_signal_is_kept_and_the_handlers_come_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with Interruption("ends after this step") as waiting:
        assert waiting.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 10
        while waiting.signal is None and time.monotonic() < end:
            time.sleep(0.01)
        assert waiting.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert "ends after this step" in capsys.readouterr().err


def test_the_second_signal_ends_the_process_at_once():
    # Loaded alone: the package takes seconds to import. The long wait is one
    # call into C, as a step of training is.
    code = (
        "import importlib.util, sys, ctypes\n"
        f"s = importlib.util.spec_from_file_location('i', "
        f"{interruption.__file__!r})\n"
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m)\n"
        "with m.Interruption('noticed'):\n"
        "    print('ready', flush=True)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    for _ in range(60): libc.usleep(1_000_000)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == b"\n"
        assert process.stderr.readline() == b"noticed\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
