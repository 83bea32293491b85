"""Runs the scripts of `examples/notebooks` and writes them as notebooks.

    python -m scripts.notebooks [NAME ...]

Each script is in jupytext's percent format. It is executed in its own folder,
by Jupyter's kernel, and written beside itself as `.ipynb` with what it printed
and showed. Without names all are run, one after another.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "notebooks"
SECONDS = 3600
# Lines that other libraries log when they are imported or trace a graph.
_LOG = re.compile(
    r"[IWE]\d{4} |WARNING: All log messages|WARNING:tensorflow:"
    r"|.*TqdmWarning|  from \.autonotebook"
)


def scripts() -> list[Path]:
    """Returns the paths of the scripts, in order."""
    return sorted(FOLDER.glob("*.py"))


def execute(path: Path, folder: Path | None = None) -> nbformat.NotebookNode:
    """Returns the notebook of a script, run in its folder.

    Args:
        path: Path of the script.
        folder: Path of the folder to run it in. Defaults to the script's.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises, or a command
            in it ends with an error.
    """
    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        # Random otherwise, and then each run would change the file.
        cell.id = f"cell-{number}"
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder or path.parent)}},
        # A progress bar is then its last state.
        coalesce_streams=True,
        record_timing=False,
    )
    client.execute(env=_environment())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(filter(_shown, cell.outputs))
    return notebook


def _shown(output: nbformat.NotebookNode) -> bool:
    """Returns whether an output is kept, and leaves out logs and paths."""
    if output.output_type == "stream":
        lines = output.text.splitlines(keepends=True)
        text = "".join(line for line in lines if not _LOG.match(line))
        output.text = text.replace(str(ROOT), "keras_sdft")
        return bool(output.text.strip())
    if "image/png" in output.data:
        output.data.pop("image/jpeg", None)
    return True


def _environment() -> dict[str, str]:
    """Returns that of the kernel, in which `keras-sdft` is found."""
    commands = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([commands, os.environ.get("PATH", "")]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="such as quickstart; all by default"
    )
    names = parser.parse_args(arguments).names
    for path in scripts():
        if not names or path.stem in names:
            target = path.with_suffix(".ipynb")
            nbformat.write(execute(path), target)
            print(target)


if __name__ == "__main__":
    main()
