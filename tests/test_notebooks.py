"""The notebooks are their scripts, and run to their end."""

import jupytext
import pytest

from scripts import notebooks


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_notebooks_are_their_scripts():
    paths = notebooks.scripts()
    written = sorted(notebooks.FOLDER.glob("*.ipynb"))

    assert [path.with_suffix(".ipynb") for path in paths] == written
    for path, notebook in zip(paths, written, strict=True):
        expected, found = jupytext.read(path), jupytext.read(notebook)
        assert sources(found) == sources(expected), (
            f"{notebook.name} is not {path.name}: make notebooks"
        )


def test_notebooks_show_what_they_did():
    for path in notebooks.FOLDER.glob("*.ipynb"):
        cells = jupytext.read(path).cells
        outputs = [
            output
            for cell in cells
            if cell.cell_type == "code"
            for output in cell.outputs
        ]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert not any(output.output_type == "error" for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", notebooks.scripts(), ids=lambda path: path.stem
)
def test_a_notebook_runs(path, tmp_path):
    # Its paths are those of the checkout.
    folder = tmp_path / "examples" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "examples" / "data").symlink_to(
        notebooks.FOLDER.parent / "data"
    )

    found = notebooks.execute(path, folder)

    assert any(
        "image/png" in output.get("data", {})
        for cell in found.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
