"""Do LoRA files mean the same here, in diffusers and in peft?

For each case (attention, another alpha than the rank, convolutions, DoRA)
the peer trains nothing but makes a random LoRA beside its networks, and
saves it with diffusers and in kohya's layout. Ours reads both, must give the
same outputs of U-Net and text encoder, and writes both dialects, which the
peer reads and must give the same outputs again.

    .venv/bin/python -m benchmarks.parity_lora            small networks
    .venv/bin/python -m benchmarks.parity_lora --full     SD 1.x at full size
    .venv/bin/python -m benchmarks.parity_lora --golden   rewrites the files of
                                                          tests/formats/golden

Then ten steps of AdamW (one at full size) on the adapters alone, by peft and
by ours, from the same values on the same inputs; and an embedding of ours,
which diffusers' `load_textual_inversion` reads, by both text encoders.

Prints relative L2 errors; the aim is 1e-5. diffusers 0.42.1 reads no
magnitudes (DoRA) for text encoders, its own files' included, and none in
kohya's layout.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _parity_ours as ours
from benchmarks import parity
from keras_sdft import StableDiffusion
from keras_sdft import adapters
from keras_sdft.formats import embedding_files
from keras_sdft.formats import lora_files

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-peers" / "bin" / "python"
GOLDEN = ROOT / "tests" / "formats" / "golden"
CASES = ("attention", "alpha", "convolutions", "dora")
# As in `_parity_lora_peer.py`, which imports torch.
TRAINED = ("attention", "dora")
LEARNING_RATE = 1e-3
TOKEN = "<cat-toy>"
PROMPT = f"a photo of {TOKEN}, a toy"
DIALECTS = {"diffusers": "", "kohya": "_kohya"}


def outputs(model, inputs):
    """The two networks' outputs."""
    positions = np.repeat(np.arange(77, dtype="int32")[None], 2, axis=0)
    tokens = {"tokens": inputs["ids"], "positions": positions}
    prediction = ours.predict_noise(
        model,
        ours.tf.constant(inputs["latents"]),
        inputs["timesteps"],
        ours.tf.constant(inputs["context"]),
    )
    return {
        "text": np.asarray(model.text_encoder(tokens)),
        "unet": np.asarray(prediction),
    }


def errors(found, expected):
    """The relative L2 errors of the U-Net and of the text encoder."""
    return [
        np.linalg.norm(found[name] - expected[name])
        / np.linalg.norm(expected[name])
        for name in ("unet", "text")
    ]


def read_inputs(path):
    return {
        name.removeprefix("input_"): array
        for name, array in np.load(path).items()
        if name.startswith("input_")
    }


def peer(command, folder, inputs, out, files=(), cases=CASES):
    script = ROOT / "benchmarks" / "_parity_lora_peer.py"
    arguments = [PEER, script, command, "--folder", folder]
    arguments += ["--inputs", inputs, "--out", out, "--files", *files]
    arguments += ["--cases", *cases]
    subprocess.run(
        [str(argument) for argument in arguments],
        check=True,
        capture_output=True,
    )


def compare(folder, inputs_file, made, work, cases=CASES):
    """Rows of case, dialect, errors here, errors of diffusers' reading."""
    inputs = read_inputs(inputs_file)
    model = StableDiffusion.from_preset(folder, 64, 64)
    rows, written = [], []
    for case in cases:
        expected = np.load(made / f"{case}.npz")
        for dialect, ending in DIALECTS.items():
            file = made / f"{case}{ending}.safetensors"
            weights = lora_files.read(file, model.spec)
            attached = adapters.attach_weights(model, weights)
            here = errors(outputs(model, inputs), expected)
            out = work / f"{case}_{dialect}.safetensors"
            lora_files.write(out, attached.weights, model.spec, dialect)
            attached.remove()
            written.append(out)
            rows.append([case, dialect, here])
    peer("read", folder, inputs_file, work / "read", written)
    report = json.loads((work / "read" / "report.json").read_text())
    for row, file in zip(rows, written, strict=True):
        if report[file.stem] == "read":
            found = np.load(work / "read" / f"{file.stem}.npz")
            row.append(errors(found, np.load(made / f"{row[0]}.npz")))
        else:
            row.append(report[file.stem])
    return rows


class Training(ours.Training):
    """Steps of AdamW on a LoRA's values alone."""

    def __init__(self, model, inputs, attached):
        super().__init__(model, inputs, "epsilon", 0.0)
        self.attached = attached

    @property
    def variables(self):
        return self.attached.learned


def trained(model, inputs, start, expected):
    """Takes the steps of the peer's `train`.

    Args:
        model: A `StableDiffusion`.
        inputs: Dict of `read_inputs`.
        start: The LoRA file that the peer began with.
        expected: The file of what it became there.

    Returns:
        The losses; of all tensors the largest relative error, and the
        smallest change by training.
    """
    read = lora_files.read
    before = {"unet": read(start, model.spec)["unet"]}
    attached = adapters.attach_weights(model, before)
    training = Training(model, inputs, attached)
    losses = training.take_steps(len(inputs["train_latents"]), LEARNING_RATE)
    after = attached.weights
    attached.remove()
    theirs = read(expected, model.spec)
    wrong, moved = [], []
    for name, weights in theirs["unet"].items():
        for part in ("down", "up", "magnitude"):
            wanted = getattr(weights, part)
            if wanted is None:
                continue
            size = np.linalg.norm(wanted)
            for other, found in ((after, wrong), (before, moved)):
                value = getattr(other["unet"][name], part)
                difference = np.reshape(value, wanted.shape) - wanted
                found.append(np.linalg.norm(difference) / size)
    return losses, max(wrong), min(moved)


def embedded(model, path):
    """Token ids and the text encoder's output with an embedding file."""
    model.load_embedding(path, TOKEN)
    ids = model.tokenizer([PROMPT])
    text = np.asarray(model.encode_tokens(ids))
    model.unload_adapters()
    return {"ids": np.asarray(ids), "text": text}


def compare_training(folder, inputs_file, made, cases=CASES):
    """Rows of case, loss error, weight error."""
    inputs = read_inputs(inputs_file)
    model = StableDiffusion.from_preset(folder, 64, 64)
    rows = []
    for case in set(cases) & set(TRAINED):
        files = (made / f"{case}{end}.safetensors" for end in ("", "_trained"))
        losses, wrong, _ = trained(model, inputs, *files)
        theirs = json.loads((made / f"{case}_losses.json").read_text())
        loss = np.abs(np.array(losses) / theirs - 1).max()
        rows.append([f"{len(losses)} steps, {case}", loss, wrong])
    vectors = np.random.default_rng(0).normal(
        0, 0.1, (2, model.spec.text_encoder.width)
    )
    files = []
    for dialect in embedding_files.DIALECTS:
        files.append(made / f"embedding_{dialect}.safetensors")
        embeddings = {TOKEN: vectors.astype("float32")}
        embedding_files.write(files[-1], embeddings, dialect)
    peer("embed", folder, inputs_file, made, files)
    for file in files:
        expected = np.load(file.with_suffix(".npz"))
        found = embedded(model, file)
        same = np.array_equal(found["ids"], expected["ids"])
        wrong = np.linalg.norm(found["text"] - expected["text"])
        wrong /= np.linalg.norm(expected["text"])
        rows.append([file.stem, "same ids" if same else "OTHER IDS", wrong])
    return rows


def _text(found):
    if isinstance(found, str):
        return found
    return ", ".join(f"{error:.1e}" for error in found)


def full_size(work):
    """Makes a random pipeline of SD 1.x, and inputs as the golden files'."""
    sides = parity.Sides(work, optimizer_steps=1)
    folder = parity.prepare("sd1", "full", sides)
    inputs = np.load(work / "inputs.npz")
    named = {f"input_{name}": array for name, array in inputs.items()}
    np.savez(folder / "reference.npz", **named)
    return folder


def report(folder, made, work, cases):
    """Prints the rows of one model."""
    inputs = folder / "reference.npz"
    peer("make", folder, inputs, made, cases=cases)
    for case, dialect, here, there in compare(
        folder, inputs, made, work, cases
    ):
        cells = [folder.name, case, dialect, _text(here), _text(there)]
        print(f"| {' | '.join(cells)} |", flush=True)
    for case, one, other in compare_training(folder, inputs, made, cases):
        one = one if isinstance(one, str) else f"{one:.1e}"
        cells = [folder.name, case, "", one, f"{other:.1e}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--golden", action="store_true")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    options = parser.parse_args()
    print("Relative L2 errors of U-Net, text encoder; of losses and weights:\n")
    print("| model | case | file | read here | ours read by diffusers |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if options.full:
            report(full_size(work), work / "made", work, options.cases)
            return
        for folder in (GOLDEN / "sd1", GOLDEN / "sd2"):
            made = work / folder.name / "made"
            made.mkdir(parents=True)
            if options.golden:
                made = folder / "lora"
            report(folder, made, work / folder.name, options.cases)


if __name__ == "__main__":
    main()
