"""What an object tells of itself, as the lines of a table.

Imports nothing of this library; every package may import it.
"""

from collections.abc import Mapping
from typing import Any


def lines(title: str, rows: Mapping[str, Any]) -> str:
    """Returns a title and a line for each row that has a value.

    Args:
        title: String, what the object is.
        rows: Dict of values by name; `None` and empty ones are left out.
    """
    shown = {name: str(value) for name, value in rows.items() if value}
    width = max(map(len, shown), default=0)
    return "\n".join(
        [
            title,
            *(f"  {name:<{width}}  {value}" for name, value in shown.items()),
        ]
    )
