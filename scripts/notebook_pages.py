"""Shows the notebooks of `examples/notebooks` as pages of the documentation.

A hook of MkDocs. `NAME.ipynb` becomes the page `tutorials/NAME.md`, with its
images and the notebook itself beside it, when the site is built: their text is
in the repository once, and no page needs a script to show a notebook. Pages
link to the notebooks, which a reader of the repository finds there.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parent.parent / "examples" / "notebooks"
FOLDER = "tutorials"
# Colours of a terminal.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# A link to a notebook, from another or from a page.
_LINK = re.compile(r"\]\((?:[./]+/examples/notebooks/)?(\w+)\.ipynb\)")
# The widest fence; what a notebook prints may hold narrower ones.
_FENCE = "`````"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to MkDocs' files."""
    from mkdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text, images = page(path)
        made: dict[str, Any] = {f"{path.stem}.md": text, **images}
        for name, content in made.items():
            address = f"{FOLDER}/{name}"
            files.append(File.generated(config, address, content=content))
        address = f"{FOLDER}/{path.name}"
        files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads the links to notebooks to their pages."""
    folder = posixpath.dirname(page.file.src_uri) or "."
    if folder == FOLDER:
        # The links to download them.
        return markdown
    return linked(markdown, posixpath.relpath(FOLDER, folder))


def linked(markdown: str, folder: str) -> str:
    """Returns a text whose links to notebooks are links to their pages.

    Args:
        markdown: The text.
        folder: Path of the pages, from that of the text.
    """
    return _LINK.sub(rf"]({folder}/\1.md)", markdown)


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Returns a notebook as Markdown, and its images.

    Args:
        path: An executed notebook, `NAME.ipynb`.

    Returns:
        Tuple of the text, and a dict of PNG files by name, `NAME-1.png` and
        so on, as the text names them.
    """
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(linked(source, "."))
            continue
        is_shell = source.startswith("!")
        parts.append(_fenced(source, "sh" if is_shell else "python"))
        for output in cell["outputs"]:
            parts.extend(_shown(output, path.stem, images))
    # Below the title.
    title, _, rest = parts[0].partition("\n")
    note = (
        f"*The notebook [examples/notebooks/{path.name}]({path.name}) of a "
        "checkout, as it was run there.*"
    )
    return "\n\n".join([title, note, rest, *parts[1:]]) + "\n", images


def _shown(output: Any, stem: str, images: dict[str, bytes]) -> list[str]:
    """Returns an output as Markdown, and adds its image to `images`."""
    if output["output_type"] == "stream":
        return [_fenced(_lines("".join(output["text"])), ".text .output")]
    data = output["data"]
    if "image/png" in data:
        name = f"{stem}-{len(images) + 1}.png"
        images[name] = base64.b64decode("".join(data["image/png"]))
        return [f"![What the code above shows]({name})"]
    return [_fenced("".join(data["text/plain"]), ".text .output")]


def _lines(text: str) -> str:
    """Returns what a terminal shows: the last state of each line."""
    lines = _COLOURS.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _fenced(text: str, language: str) -> str:
    if language.startswith("."):
        # Nothing to type again.
        language = f"{{ {language} .no-copy }}"
    return f"{_FENCE}{language}\n{text.rstrip()}\n{_FENCE}"
