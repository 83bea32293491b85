"""Calls from a pipeline into Python: their end, and their failures.

TensorFlow's threads call Python for each example, ahead of what is asked for.
A call that waits for the interpreter lock when the interpreter begins to end
never returns, and an iterator that is still alive then waits for it for ever.
So calls are cut short once the process is about to end, and those under way
are waited for. What a call raises reaches the user inside an error of
TensorFlow's, below a traceback, so the last ones are kept as they were.
"""

import atexit
import collections
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

_WAIT_SECONDS = 0.05
_MOST_SECONDS = 5.0


class Calls:
    """Counts calls, and cuts them short after `close`."""

    def __init__(self) -> None:
        self.failures: collections.deque = collections.deque(maxlen=8)
        self._lock = threading.Lock()
        self._closed = False
        self._begun = 0
        self._running = 0

    def guard(
        self,
        function: Callable[..., _Result],
        at_end: Callable[..., _Result] | None = None,
    ) -> Callable[..., _Result]:
        """Returns the function, counted, and replaced by another at the end.

        `at_end` takes the same arguments and is quick; nobody uses its result.
        """

        def guarded(*arguments):
            with self._lock:
                self._begun += 1
                self._running += 1
                closed = self._closed
            try:
                if closed and at_end is not None:
                    return at_end(*arguments)
                return function(*arguments)
            except Exception as error:
                self.failures.append(error)
                raise
            finally:
                with self._lock:
                    self._running -= 1

        return guarded

    def close(self) -> None:
        """Cuts calls short, and waits until none runs and none comes."""
        with self._lock:
            self._closed = True
            begun, idle = self._begun, False
        end = time.monotonic() + _MOST_SECONDS
        while not idle and time.monotonic() < end:
            time.sleep(_WAIT_SECONDS)
            with self._lock:
                idle = self._running == 0 and self._begun == begun
                begun = self._begun


CALLS = Calls()
atexit.register(CALLS.close)


def cause_of(error: BaseException) -> Exception | None:
    """Returns what a pipeline of this package raised, as it was raised.

    Args:
        error: An error of TensorFlow's, as `fit` raises it.

    Returns:
        The exception whose text the error holds, or `None` if there is none.
    """
    for failure in reversed(CALLS.failures):
        if failure is not error and str(failure) in str(error):
            return failure
    return None
