"""`keras-sdft recipes`: files of flags for `--config`, which come with it."""

import dataclasses
from importlib import resources

from keras_sdft import checks
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
    """Lists the recipes, or prints one as a file for `--config`."""
    files = resources.files("keras_sdft").joinpath("recipes").iterdir()
    texts = {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".yaml")
    }
    if options.name is not None:
        print(texts[checks.one_of("name", options.name, texts)], end="")
        return
    for name, text in texts.items():
        # The first line is a comment.
        title = text.partition("\n")[0].lstrip("# ").rstrip(".")
        print(f"{name:<19}{title}")


COMMAND = Command(
    run=recipes,
    groups=(RecipeOptions,),
    positionals=("name",),
    example="keras-sdft recipes style > style.yaml",
    needs_tensorflow=False,
)
