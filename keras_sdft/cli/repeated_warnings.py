"""Warnings of a command that reads the same data more than once.

Knows loggers by name, and no message.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def each_warning_once() -> Iterator[None]:
    """Context manager in which the library logs each message once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in seen
        seen.add(message)
        return not known

    # A filter of a logger does not see what its children log.
    names = [n for n in logging.root.manager.loggerDict if "keras_sdft" in n]
    for name in names:
        logging.getLogger(name).addFilter(is_new)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(is_new)


@contextlib.contextmanager
def muted(name: str) -> Iterator[None]:
    """Context manager in which a module of the library warns of nothing.

    Args:
        name: String, the module: `"data.sources.dreambooth"`.
    """
    logger = logging.getLogger(f"keras_sdft.{name}")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was
