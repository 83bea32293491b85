"""The fenced blocks of the documents, and which of them are commands."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / f"{n}.md" for n in ("README", "README.ko")),
    *(ROOT / f"{n}.md" for n in ("CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"(<!-- not run[^\n]*-->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S
)
# What a block of any other language holds is commands.
NO_COMMANDS = ("python", "text", "json")


def page_name(page):
    return page.relative_to(ROOT).as_posix()


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: Integer, where it begins.
        language: String, `""` for a block of commands.
        text: String.
        reason: Why it is not run, or `None` if it is. It is in a comment
            before the block, which a browser does not show:
            `<!-- not run: REASON -->`.
    """

    line: int
    language: str
    text: str
    reason: str | None

    @property
    def has_commands(self):
        return self.language not in NO_COMMANDS

    @property
    def is_run(self):
        return self.has_commands and self.reason is None

    @property
    def commands(self):
        """Its lines, each with those that continue it."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page):
    """Returns the blocks of a page (a path), in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            text.count("\n", 0, found.start()) + 1,
            found[2],
            found[3],
            found[1] and re.sub(r"^<!-- not run:? *| *-->\n$", "", found[1]),
        )
        for found in FENCE.finditer(text)
    ]
