"""Python's garbage collection, left out where much is made and stays.

Imports, networks and graphs make hundreds of thousands of objects that live
as long as the process. The collector goes over all of them again and again,
and finds nothing: 0.8 of 9.8 seconds before a small network's first step.
"""

import contextlib
import gc
from collections.abc import Iterator

# New objects, above which those that are left are taken for lasting ones.
_MANY = 20_000


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Context manager without garbage collection.

    At its end, what is new goes into the oldest generation at once, if it is
    much: collections of the younger ones would go over it first. Objects that
    somebody has frozen stay so.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()
