"""Do LoRA files mean the same here, in diffusers and in peft?

For each case (attention, another alpha than the rank, convolutions, DoRA)
the peer trains nothing but makes a random LoRA beside its networks, and
saves it with diffusers and in kohya's layout. Ours reads both, must give the
same outputs of U-Net and text encoder, and writes both dialects, which the
peer reads and must give the same outputs again.

    .venv/bin/python -m benchmarks.parity_lora            small networks
    .venv/bin/python -m benchmarks.parity_lora --folder F a pipeline of your own
    .venv/bin/python -m benchmarks.parity_lora --golden   rewrites the files of
                                                          tests/formats/golden

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
from keras_sdft import StableDiffusion
from keras_sdft import adapters
from keras_sdft.formats import lora_files

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-peers" / "bin" / "python"
GOLDEN = ROOT / "tests" / "formats" / "golden"
CASES = ("attention", "alpha", "convolutions", "dora")
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


def peer(command, folder, inputs, out, files=()):
    script = ROOT / "benchmarks" / "_parity_lora_peer.py"
    arguments = [PEER, script, command, "--folder", folder]
    arguments += ["--inputs", inputs, "--out", out, "--files", *files]
    subprocess.run(
        [str(argument) for argument in arguments],
        check=True,
        capture_output=True,
    )


def compare(folder, inputs_file, made, work):
    """Rows of case, dialect, errors here, errors of diffusers' reading."""
    inputs = read_inputs(inputs_file)
    model = StableDiffusion.from_preset(folder, 64, 64)
    rows, written = [], []
    for case in CASES:
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


def _text(found):
    if isinstance(found, str):
        return found
    return ", ".join(f"{error:.1e}" for error in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, nargs="*")
    parser.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    folders = options.folder or [GOLDEN / name for name in ("sd1", "sd2")]
    print("Relative L2 errors of U-Net, text encoder:\n")
    print("| model | case | file | read here | ours read by diffusers |")
    print("|---|---|---|---|---|")
    for folder in folders:
        inputs = folder / "reference.npz"
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            made = folder / "lora" if options.golden else work / "made"
            peer("make", folder, inputs, made)
            for case, dialect, here, there in compare(
                folder, inputs, made, work
            ):
                cells = [folder.name, case, dialect, _text(here), _text(there)]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
