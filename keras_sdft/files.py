"""Everything that touches a disk twice: atomic writes, locks, free space.

Imports nothing of this library; every package may import it.
"""

from __future__ import annotations
