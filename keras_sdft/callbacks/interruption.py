"""The first INT or TERM lets a training end in order, the second at once.

Must not know what is trained or written.
"""

import contextlib
import os
import signal
import sys
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Context manager that waits for INT and TERM.

    The first signal is kept in `signal`, for whoever is at a step to end in
    order. The second one ends the process. A thread reads them, because
    Python itself handles signals only between two steps. Use it in the main
    thread.

    Args:
        notice: String, what is written to `sys.stderr` at the first signal.

    Attributes:
        signal: Integer, the first signal, or `None`.
    """

    def __init__(self, notice: str) -> None:
        self.notice = notice
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(
            self._write, warn_on_full_buffer=False
        )
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, lambda *_: None)
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def _wait(self) -> None:
        while data := os.read(self._read, 1):
            number = data[0]
            if number not in _SIGNALS:
                continue
            if self.signal is not None:
                os._exit(128 + number)
            self.signal = number
            with contextlib.suppress(OSError, ValueError):
                print(f"\n{self.notice}", file=sys.stderr, flush=True)
        os.close(self._read)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous)
        # Ends the thread.
        os.close(self._write)
