"""`keras-sdft recipes`: files of flags for `--config`, which come with it."""

from __future__ import annotations

import dataclasses
from importlib import resources

from keras_sdft.checks import did_you_mean
from keras_sdft.cli.command import Command
from keras_sdft.cli.command import Options


@dataclasses.dataclass(frozen=True)
class RecipeOptions:
    """What to print.

    Args:
        name: A recipe, to print its file. Without it, all are listed.
    """

    name: str | None = None


def recipes(options: Options) -> None:
    """Lists the recipes, or prints one as a file for `--config`.

    Raises:
        ValueError: If there is no recipe of that name.
    """
    texts = _texts()
    if options.name is None:
        print("\n".join(f"{n:<19}{_title(t)}" for n, t in texts.items()))
    elif options.name in texts:
        print(texts[options.name], end="")
    else:
        raise ValueError(
            f"The recipe must be one of {list(texts)}. Received: "
            f"{options.name!r}.{did_you_mean(options.name, texts)}"
        )


def _texts() -> dict[str, str]:
    """Returns the recipes' files by their names, in alphabetical order."""
    files = resources.files("keras_sdft").joinpath("recipes").iterdir()
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }


def _title(text: str) -> str:
    """Returns the first line, which is a comment."""
    return text.partition("\n")[0].lstrip("# ").rstrip(".")


COMMAND = Command(
    run=recipes,
    groups=(RecipeOptions,),
    positional="name",
    example="keras-sdft recipes style > style.yaml",
    needs_tensorflow=False,
)
