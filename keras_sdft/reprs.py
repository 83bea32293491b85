"""What objects tell of themselves: lines of a table, names, small images.

Imports nothing of this library; every package may import it.
"""

import base64
import io
from collections.abc import Iterable
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


def first_five(names: Iterable[str]) -> str:
    """Returns `"'a', 'b', 'c', 'd', 'e' and 7 more"` for a message."""
    names = list(names)
    text = ", ".join(map(repr, names[:5]))
    return text if len(names) <= 5 else f"{text} and {len(names) - 5} more"


def data_uri(image: Any, most: int) -> str:
    """Returns an image as a `data:` URI of WebP, for a page of HTML.

    Args:
        image: `PIL.Image.Image`, which is not changed.
        most: Integer, pixels that its longer side is reduced to.
    """
    image = image.convert("RGB")
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{data}"
