"""The notebooks are their scripts, and run to their end."""

import jupytext
import nbformat
import pytest

from scripts import notebook_pages
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


def test_pages_show_code_images_and_the_last_state_of_each_line(tmp_path):
    path = tmp_path / "word.ipynb"
    cells = [
        nbformat.v4.new_markdown_cell("# A word\n\nSee [it](other.ipynb)."),
        nbformat.v4.new_code_cell(
            "!keras-sdft inspect tiny",
            outputs=[
                nbformat.v4.new_output(
                    "stream", text="1 %\r\x1b[1m100 %\x1b[0m\r\ndone\r\n"
                )
            ],
        ),
        nbformat.v4.new_code_cell(
            "grid",
            outputs=[
                nbformat.v4.new_output(
                    "execute_result",
                    {"image/png": "aGVsbG8=\n", "text/plain": "<Image>"},
                )
            ],
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)

    text, images = notebook_pages.page(path)

    assert text.startswith("# A word\n\n*The notebook [")
    assert "See [it](./other.md)." in text
    assert "`sh\n!keras-sdft inspect tiny\n`" in text
    assert ".output .no-copy }\n100 %\ndone\n`" in text
    assert text.endswith(
        "`python\ngrid\n`````\n\n![What the code above shows](word-1.png)\n"
    )
    assert images == {"word-1.png": b"hello"}


def test_links_to_notebooks_lead_to_their_pages():
    text = "[a](../../examples/notebooks/lora.ipynb), [b](lora.md)"
    linked = notebook_pages.linked(text, "../tutorials")
    assert linked == "[a](../tutorials/lora.md), [b](lora.md)"


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
