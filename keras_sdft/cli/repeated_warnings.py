"""Warnings of a command that looks at the same data more than once.

Knows loggers by name, and no message.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_ROOM = "keras_sdft"


@contextlib.contextmanager
def each_warning_once() -> Iterator[None]:
    """Inside, the library logs each message once.

    A filter of a logger does not see what its children log, so each of them
    gets it, those that are made later excepted.
    """
    from keras_sdft import data  # noqa: F401  (makes its loggers)

    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in seen
        seen.add(message)
        return not known

    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith(_ROOM) and isinstance(logger, logging.Logger)
    ]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)


@contextlib.contextmanager
def muted(name: str) -> Iterator[None]:
    """Inside, a module of the library warns of nothing.

    Args:
        name: String, the module: `"data.sources.dreambooth"`.
    """
    logger = logging.getLogger(f"{_ROOM}.{name}")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was
