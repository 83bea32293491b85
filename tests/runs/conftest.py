"""The small trainer of the callbacks' tests."""

from tests.callbacks.conftest import batches
from tests.callbacks.conftest import trainer

__all__ = ["batches", "trainer"]
