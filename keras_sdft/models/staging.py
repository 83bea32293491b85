"""Directories that are written whole or not at all.

Must not know what is written, nor what may be replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A directory beside `path` that is renamed to it at the end.

    What was at `path` is replaced; after an error it is as it was.

    Args:
        path: The directory to make; its parents are made too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield staging
        staging.chmod(0o755)
        _swap(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _swap(staging: Path, path: Path) -> None:
    if not path.exists():
        os.replace(staging, path)
        return
    retired = staging.with_name(staging.name + "-old")
    os.replace(path, retired)
    os.replace(staging, path)
    shutil.rmtree(retired)
