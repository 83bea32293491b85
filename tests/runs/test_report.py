"""The page of a run: what it shows, where from, and that it harms no run."""

import html
import html.parser
import json
import math
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_sdft import callbacks
from keras_sdft import data
from keras_sdft import runs
from keras_sdft.callbacks import image_grid
from keras_sdft.callbacks import save_png
from keras_sdft.callbacks.previews import split_preview
from keras_sdft.cli import main
from keras_sdft.runs.report import images
from keras_sdft.runs.report.scalars import Curve
from keras_sdft.runs.report.scalars import read_curves

PROMPTS = ["a red <heart>", "a dog"]


class Tokenizer:
    max_length = 8

    def encode(self, text):
        return [0, *range(len(text.split())), 1]


class Page(html.parser.HTMLParser):
    """The text of a page, its charts, its images and what it refers to."""

    def __init__(self, path):
        super().__init__()
        self.words, self.images, self.references = [], [], []
        self._inside = None
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._inside = attributes.get("id", tag)
        if tag == "img":
            self.images.append(attributes)
        found = [attributes.get(name) for name in ("src", "href")]
        self.references += [value for value in found if value]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside == "charts":
            self.charts = {chart["id"]: chart for chart in json.loads(text)}
        elif self._inside not in ("script", "style"):
            self.words.append(text)


def write_events(directory, last, loss=1.0):
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default():
        for step in range(1, last + 1):
            tf.summary.scalar("loss/train", loss / step, step=step)
            tf.summary.scalar("learning_rate", 1e-4, step=step)
        tf.summary.scalar("loss/validation", 0.25, step=last)
    writer.close()


def write_preview(run, step, color):
    pixels = np.full((2, 64, 96, 3), color, np.uint8)
    path = run.previews / f"step_{step:06d}.png"
    grid = image_grid(pixels, columns=1, labels=PROMPTS)
    save_png(grid, path, {"prompts": json.dumps(PROMPTS)})


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(7):
        image = Image.new("RGB", (640 + 64 * index, 480), (30 * index, 0, 0))
        image.save(folder / f"{index}.png")
        words = " ".join(["word"] * (index + 1))
        (folder / f"{index}.txt").write_text(f"{words} </script>")
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "bad.txt").write_text("bad")
    return folder


@pytest.fixture
def make_run(tmp_path, photos):
    """Makes runs, as `keras-sdft train` leaves them."""
    report = data.Report()
    tokenizer = Tokenizer()
    tokenizer.pad = lambda ids: ids + [1] * (8 - len(ids))
    tokenizer.end_of_text = 1
    data.load(
        photos,
        tokenizer,
        resolution=256,
        buckets=True,
        max_unreadable=0.2,
        report=report,
    )

    def make(name, last=40, error=None, learning_rate=1e-4):
        path = tmp_path / name
        with (
            pytest.raises(ValueError) if error else open(__file__),
            runs.RunDirectory(path, "train") as run,
        ):
            run.write_config({"learning_rate": learning_rate}, "again")
            runs.note_facts(
                path,
                steps=40,
                prompt=PROMPTS[0],
                seconds=3723,
                memory={"process": 2_500_000_000},
                settings=runs.changed_settings(
                    {"model": "tiny", "seed": 3, "lr": 1, "some": [1, 2]},
                    {"seed": 0, "lr": 1, "some": (1, 2)},
                ),
                data=runs.data_facts(report, Tokenizer()),
            )
            run.begin()
            write_events(run.logs, last)
            for step in (0, 20, last):
                write_preview(run, step, step)
            if error:
                raise ValueError(error)
            run.weights.mkdir()
            (run.weights / "diffusion_model.weights.h5").touch()
            run.finish(last)
        return path

    return make


def test_the_page_of_a_run_shows_all_of_it(make_run):
    run = make_run("cat")
    page = Page(run / "index.html")
    for text in (
        "keras-sdft train : finished after 40 steps",
        "steps 40 of 40",
        "validation loss 0.25",
        "time 1 h 02 min",
        "memory at most, process 2.5 GB",
        # Settings: those that differ alone, and no default where none is.
        "value default model tiny seed 3 0 All of them (config.yaml)",
        # Data: what was left out and why, buckets, captions.
        "8 images found, 7 used.",
        "Left out: 1 that cannot be read: bad.png",
        "Captions: 2 to 8 tokens, median 5; 2 longer than the 6 that are read",
        "word word </script>",
        f"keras-sdft generate --model {run} --prompt 'a red <heart>'",
        f"keras-sdft convert --model {run} --output cat.safetensors "
        "--format ldm",
    ):
        assert text in page.text, text
    buckets = re.search(r"width x height (.*?) Captions", page.text)[1]
    assert sum(int(n) for n in re.findall(r" (\d+)(?= |$)", buckets)) == 7
    # Before and later steps of both prompts, and five examples.
    assert [image["alt"] for image in page.images if "hidden" in image] == [
        f"step 20: {prompt}" for prompt in PROMPTS
    ]
    assert len(page.images) == 2 * 3 + 5
    loss = {line["label"]: line for line in page.charts["loss"]["series"]}
    assert list(loss) == ["training", "training, smoothed", "validation"]
    assert loss["training"]["x"] == list(range(1, 41))
    assert loss["training"]["y"][:2] == [1.0, 0.5]
    assert loss["validation"]["x"] == [40]
    assert list(page.charts) == ["loss", "rate"]
    record = runs.read_record(run)
    assert {"index.html", "report.json"} <= set(record.files)


def test_the_page_needs_no_other_file(make_run):
    path = make_run("cat") / "index.html"
    references = Page(path).references
    assert len(references) == 11
    assert all(r.startswith("data:image/webp;base64,") for r in references)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    assert "{{" not in text and "{%" not in text
    assert len(text) < 200_000


def test_a_run_that_failed_has_a_page_with_the_error(make_run):
    run = make_run("cat", last=30, error="The loss <is> NaN")
    page = Page(run / "index.html")
    assert "failed after 30 steps" in page.text
    assert "ValueError: The loss <is> NaN" in page.text
    assert "steps 30 of 40" in page.text


def test_a_report_that_cannot_be_made_ends_no_run(make_run, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no template")

    monkeypatch.setattr("keras_sdft.runs.report.page._render", broken)
    with pytest.warns(UserWarning, match="was not written.*no template"):
        run = make_run("cat")
    assert runs.read_record(run).state == "finished"


def test_several_runs_are_compared(make_run, tmp_path, capsys):
    first = make_run("a/cat")
    second = make_run("b/cat", learning_rate=5e-5)
    output = tmp_path / "both.html"
    paths = [str(first), str(second)]
    assert main(["report", *paths, "--output", str(output)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{first}/index.html",
        f"{second}/index.html",
        str(output),
    ]
    page = Page(output)
    assert "differ a/cat b/cat learning_rate 0.0001 5e-05" in page.text
    lines = page.charts["loss"]["series"]
    assert [(line["label"], line["color"]) for line in lines] == [
        ("a/cat: training, smoothed", 0),
        ("a/cat: validation", 0),
        ("b/cat: training, smoothed", 1),
        ("b/cat: validation", 1),
    ]
    # The last image of each, for both prompts.
    assert len(page.images) == 4


def test_what_is_no_run_has_no_report(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "has no run.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_has_one_curve(tmp_path):
    write_events(tmp_path, last=6)
    # It was killed after step 6, and went on from a checkpoint of step 4.
    writer = tf.summary.create_file_writer(str(tmp_path), filename_suffix="z")
    with writer.as_default():
        for step in (5, 6, 7):
            tf.summary.scalar("loss/train", 0.0, step=step)
    writer.close()
    curve = read_curves(tmp_path)["loss/train"]
    assert curve.steps == [1, 2, 3, 4, 5, 6, 7]
    assert curve.values == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 0, 0, 0])
    assert read_curves(tmp_path / "missing") == {}


def test_smoothing_keeps_a_constant_and_passes_over_nan():
    flat = Curve(list(range(100)), [2.0] * 100).smoothed()
    assert flat.values == pytest.approx([2.0] * 100)
    noise = np.random.default_rng(0).normal(size=400)
    rough = Curve(list(range(400)), noise.tolist())
    # Of n independent values, the average with this decay has 1/39 of the
    # variance.
    assert np.std(rough.smoothed().values) < 0.3 * np.std(noise)
    holes = Curve([0, 1, 2], [math.nan, 1.0, math.nan]).smoothed()
    assert math.isnan(holes.values[0]) and holes.values[1:] == [1.0, 1.0]


def test_a_long_curve_is_thinned_to_means():
    curve = Curve(list(range(1, 2502)), [1.0, 3.0] * 1250 + [7.0]).thinned()
    assert len(curve.steps) <= 1000
    assert curve.steps[0] == 3 and curve.steps[-1] == 2501
    assert curve.values[0] == pytest.approx(5 / 3)
    short = Curve([1], [2.0])
    assert short.thinned() is short


def test_a_hundred_images_at_most_are_in_a_page(tmp_path):
    for step in range(0, 5000, 10):
        (tmp_path / f"step_{step:06d}.png").touch()
    (tmp_path / "step_1000000.png").touch()
    paths = images.preview_steps(tmp_path, 4)
    steps = [images.step_of(path) for path in paths]
    assert len(steps) == 24 and steps == sorted(steps)
    assert steps[0] == 0 and steps[-1] == 1_000_000
    assert len(images.preview_steps(tmp_path, 200)) == 2


def test_previews_are_split_as_they_were_joined(trainer, batches, tmp_path):
    previews = callbacks.Previews(["a", "b"], tmp_path, every_steps=4, seed=7)
    trainer.fit(batches, verbose=0, callbacks=[previews])
    found = split_preview(tmp_path / "step_000004.png")
    assert [prompt for prompt, _ in found] == ["a", "b"]
    assert [image.size for _, image in found] == [(24, 16)] * 2
    assert [image.getpixel((5, 5)) for _, image in found] == [
        (7, 0, 0),
        (8, 0, 0),
    ]
    assert split_preview(tmp_path / "before_and_after.png") == []


def test_the_page_is_there_while_the_run_goes_on(trainer, batches, tmp_path):
    with runs.RunDirectory(tmp_path / "run", "train") as run:
        runs.note_facts(run.path, steps=4, seconds=100.0)
        run.begin()
        board = callbacks.TensorBoard(run.logs)
        page = runs.report_callback(run.path)
        seen = []
        look = keras.callbacks.Callback()
        look.on_train_batch_end = lambda batch, logs: seen.append(
            run.report.exists()
        )
        trainer.fit(batches, verbose=0, callbacks=[board, page, look])
        text = run.report.read_text(encoding="utf-8")
        assert all(seen) and len(seen) == 4
        assert "running, after step 4" in text
        assert 'http-equiv="refresh"' in text
        run.finish(4)
    facts = json.loads((run.path / "report.json").read_text())
    # The time before the run was interrupted counts.
    assert 100 < facts["seconds"] < 200
    assert facts["memory"]["process"] > 1e8
    assert facts["machine"]["TensorFlow"] == tf.__version__
    text = run.report.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in text


# Looks at the page in a frame, which can be narrower than a window.
LOOK = """<iframe src="{page}" width="{width}" height="2000"></iframe><script>
window.addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const slider = page.getElementById("steps");
  slider.value = 1;
  slider.dispatchEvent(new Event("input"));
  const shown = page.querySelectorAll(".timeline img:not([hidden])");
  document.title = JSON.stringify({{
    canvases: page.querySelectorAll("canvas").length,
    shown: [...shown].map((image) => image.alt),
    step: page.getElementById("step").textContent,
    width: page.documentElement.scrollWidth,
  }});
}});
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_the_curves_and_moves_through_steps(
    make_run, tmp_path, width
):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("There is no Chromium on this machine.")
    page = (make_run("cat") / "index.html").as_uri()
    frame = tmp_path / "frame.html"
    frame.write_text(LOOK.format(page=page, width=width))
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars"]
    command += ["--allow-file-access-from-files", "--dump-dom"]
    command += ["--virtual-time-budget=5000", frame.as_uri()]
    dump = subprocess.run(command, capture_output=True, text=True, check=True)
    title = html.unescape(re.search("<title>(.*)</title>", dump.stdout)[1])
    assert json.loads(title) == {
        "canvases": 2,
        "shown": [f"step 20: {prompt}" for prompt in PROMPTS],
        "step": "20",
        # Nothing is wider than the page.
        "width": width,
    }
