"""Do our networks compute what diffusers' compute, from the same files?

Makes random pipelines with diffusers and transformers (biases and norms
perturbed, so that no error hides behind a zero), reads them with
`keras_sdft.formats`, and prints relative L2 errors; writes ours and loads
that with diffusers; draws the same image on both sides; compares loss,
gradients and ten optimizer steps.

    make parity                                     full size, 30 minutes
    .venv/bin/python benchmarks/parity.py --narrow  a minute or two
    .venv/bin/python benchmarks/parity.py --golden  rewrites the small files
                                                    of tests/formats/golden
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import tensorflow as tf

import keras_sdft
from keras_sdft import diffusion
from keras_sdft.formats import checkpoint as checkpoints
from keras_sdft.formats import safetensors_files
from keras_sdft.formats import tokenizer_files
from keras_sdft.models import presets
from keras_sdft.models.generation import guided_prediction
from keras_sdft.training.objective import Objective

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-peers" / "bin" / "python"
GOLDEN = ROOT / "tests" / "formats" / "golden"
PROMPT = "a red heart in ink style"
NETWORKS = ("text encoder", "image encoder", "diffusion model", "decoder")
STEPS = 20


def pipeline_config(architecture, size):
    """Arguments of the peer's classes for a pipeline."""
    second = architecture == "sd2"
    full, golden = size == "full", size == "golden"
    widths = [320, 640, 1280, 1280] if full else [32, 64, 96, 96]
    widths = [8, 16] if golden else widths
    text = (1024 if second else 768) if full else 32
    vae = [128, 256, 512, 512] if full else [16, 32, 32, 32]
    groups = 32 if full else 4 if golden else 8
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    levels = len(widths)
    if second:
        heads = [width // (64 if full else 4) for width in widths]
    else:
        heads = 8 if full else 2
    return {
        "seed": 0,
        "half": golden,
        "prediction_type": "v_prediction" if second else "epsilon",
        "unet": {
            "sample_size": (96 if second else 64) if full else 8,
            "block_out_channels": widths,
            "layers_per_block": 1 if golden else 2,
            "down_block_types": [cross] * (levels - 1) + [plain],
            "up_block_types": ["UpBlock2D"]
            + ["CrossAttnUpBlock2D"] * (levels - 1),
            "cross_attention_dim": text,
            "attention_head_dim": heads,
            "use_linear_projection": second,
            "norm_num_groups": groups,
        },
        "vae": {
            "block_out_channels": [8] * 4 if golden else vae,
            "layers_per_block": 1 if golden else 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "latent_channels": 4,
            "norm_num_groups": groups,
            "sample_size": 512,
        },
        "text_encoder": {
            "vocab_size": 49408 if full else 600 if golden else 2048,
            "hidden_size": text,
            "intermediate_size": 4 * text,
            "num_hidden_layers": (23 if second else 12) if full else 2,
            "num_attention_heads": text // 64 if full else 2,
            "hidden_act": "gelu" if second else "quick_gelu",
            "max_position_embeddings": 77,
            "projection_dim": text,
        },
    }


def make_inputs(config, size, seed=0):
    """What both sides are given."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.normal(size=shape).astype("float32")

    # At 8 the bottom of four levels is one place, which attends to itself
    # alone: the gradients of its queries are zero and errors mean nothing.
    side = {"full": 32, "narrow": 16, "golden": 8}[size]
    width = config["text_encoder"]["hidden_size"]
    words = config["text_encoder"]["vocab_size"]
    inputs = {
        "prompt": PROMPT,
        "ids": generator.integers(0, words, (2, 77)).astype("int32"),
        "image": np.tanh(normal(1, 8 * side, 8 * side, 3)),
        "latents": normal(2, side, side, 4),
        "timesteps": np.array([3, 977], "int32"),
        "context": normal(2, 77, width),
        "noise": normal(1, side, side, 4),
    }
    if size == "narrow":
        steps = 10
        inputs |= {
            "train_latents": normal(steps, 2, side, side, 4),
            "train_noise": normal(steps, 2, side, side, 4),
            "train_context": normal(steps, 2, 77, width),
            "train_timesteps": generator.integers(0, 1000, (steps, 2)),
        }
    return inputs


def write_tokenizer(folder, words, pad):
    """The vocabulary of "tiny", or its beginning."""
    folder.mkdir(parents=True)
    import gzip

    text = gzip.decompress(presets.PRESETS["tiny"].merges.read_bytes())
    merges = text.decode("utf-8").split("\n")[1:]
    count = min(words - 514, len([line for line in merges if line]))
    tokenizer = tokenizer_files.make_tokenizer(merges[:count], 77, pad)
    tokenizer_files.write_tokenizer(folder, tokenizer)


def peer(command, **arguments):
    """Runs the peer's script; returns seconds."""
    flags = [
        text
        for name, value in arguments.items()
        for text in (f"--{name}", str(value))
    ]
    script = ROOT / "benchmarks" / "_parity_peer.py"
    start = time.monotonic()
    subprocess.run([PEER, script, command, *flags], check=True)
    return time.monotonic() - start


def measured(*arguments):
    """Runs `keras-sdft` in a process: seconds and peak bytes."""
    program = ROOT / ".venv" / "bin" / "python"
    start = time.monotonic()
    process = subprocess.Popen(
        [program, "-m", "keras_sdft", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"keras-sdft {arguments} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def error(ours, theirs):
    """Relative L2 error."""
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def our_outputs(model, inputs):
    """What `run` of the peer computes, by our networks."""
    positions = np.repeat(np.arange(77, dtype="int32")[None], 2, axis=0)
    width = model.spec.diffusion_model.timestep_width
    embedding = diffusion.timestep_embedding(inputs["timesteps"], width)
    return {
        "text encoder": model.text_encoder(
            {"tokens": inputs["ids"], "positions": positions}
        ),
        "image encoder": model.moments_model(inputs["image"]),
        "diffusion model": model.diffusion_model(
            {
                "latent": tf.constant(inputs["latents"]),
                "timestep_embedding": embedding,
                "context": tf.constant(inputs["context"]),
            }
        ),
        "decoder": model.decoder(inputs["latents"][:1]),
    }


def our_image(model, inputs, steps):
    """The peer's DDIM, by our sampler."""
    predict = guided_prediction(
        model.diffusion_model,
        model.spec.diffusion_model.timestep_width,
        np.asarray(model.encode_text(str(inputs["prompt"]))),
        np.asarray(model.encode_text("")),
        7.5,
    )
    latents = diffusion.ddim(
        predict,
        keras.ops.convert_to_tensor(inputs["noise"]),
        model.schedule,
        diffusion.sampling_timesteps(steps, spacing="leading"),
        model.spec.prediction_type,
        final_alpha=model.schedule.alphas_cumprod[0],
    )
    image = np.asarray(model.decoder(latents))
    return latents, np.clip(image / 2 + 0.5, 0, 1)


def load_ours(path, inputs, numerics="exact"):
    side = 8 * inputs["latents"].shape[1]
    return keras_sdft.StableDiffusion.from_preset(
        path, side, side, numerics=numerics
    )


def prepare(architecture, size, work):
    """Writes the peer's random pipeline and the inputs of both sides."""
    config = pipeline_config(architecture, size)
    inputs = make_inputs(config, size)
    folder = work / architecture
    shutil.rmtree(folder, ignore_errors=True)
    pad = 0 if architecture == "sd2" else "end"
    words = config["text_encoder"]["vocab_size"]
    write_tokenizer(folder / "tokenizer", words, pad)
    (work / "config.json").write_text(json.dumps(config))
    np.savez(work / "inputs.npz", **inputs)
    peer("make", folder=folder, config=work / "config.json")


def compare(architecture, work):
    """The table of one architecture: yields (what, figure)."""
    folder, inputs = work / architecture, np.load(work / "inputs.npz")
    given = {"inputs": work / "inputs.npz", "steps": STEPS}
    peer("run", folder=folder, out=work / "theirs.npz", **given)
    theirs = dict(np.load(work / "theirs.npz"))
    for numerics in ("exact", "keras_cv"):
        model = load_ours(folder, inputs, numerics)
        outputs = our_outputs(model, inputs)
        for name in NETWORKS:
            figure = error(outputs[name], theirs[name])
            yield (f"{name}, numerics={numerics!r}", figure)
        if numerics == "exact":
            ids = model.tokenizer([PROMPT])[0]
            yield ("token ids", float((ids != theirs["ids"]).sum()))
            latents, image = our_image(model, inputs, STEPS)
            figure = error(latents, theirs["drawn_latents"])
            yield (f"latents, {STEPS} steps of DDIM", figure)
            figure = error(image, theirs["image"])
            yield (f"image, {STEPS} steps of DDIM", figure)
        del model, outputs
        keras.backend.clear_session()
    yield from round_trip(folder, work, given, theirs)


def round_trip(folder, work, given, theirs):
    """Through our formats and back into diffusers."""
    ways = (("keras_cv", "keras"), ("ldm", "single.safetensors"))
    for format, name in ways:
        shutil.rmtree(work / name, ignore_errors=True)
        flags = ("--overwrite", "--format", format)
        seconds, peak = measured(
            "convert", "--model", folder, "--output", work / name, *flags
        )
        yield (f"diffusers to {format}, seconds", seconds)
        yield (f"diffusers to {format}, peak GB", peak / 1e9)
    back = work / "back"
    shutil.rmtree(back, ignore_errors=True)
    seconds, peak = measured(
        "convert", "--model", work / "keras", "--output", back,
        "--format", "diffusers",
    )  # fmt: skip
    yield ("keras_cv to diffusers, seconds", seconds)
    yield ("keras_cv to diffusers, peak GB", peak / 1e9)
    shutil.rmtree(work / "keras")
    peer("run", folder=back, out=work / "again.npz", **(given | {"steps": 0}))
    again = dict(np.load(work / "again.npz"))
    report = json.loads(str(again["report"]))
    count = sum(sum(kinds.values()) for kinds in report.values())
    yield ("ours in diffusers: missing or unexpected", float(count))
    for name in NETWORKS:
        yield (f"ours in diffusers: {name}", error(again[name], theirs[name]))
    shutil.rmtree(back)
    peer(
        "single",
        folder=folder,
        file=work / "single.safetensors",
        out=work / "again.npz",
        **(given | {"steps": 0}),
    )
    again = dict(np.load(work / "again.npz"))
    for name in NETWORKS:
        yield (
            f"our single file in diffusers: {name}",
            error(again[name], theirs[name]),
        )
    seconds, _ = measured("inspect", work / "single.safetensors")
    yield ("inspect of the single file, seconds", seconds)


def training(architecture, work, steps=10):
    """Loss, gradients and optimizer steps, on the narrow networks.

    They have the full ones' 686 tensors; those would need 14 GB on each
    side.
    """
    prepare(architecture, "narrow", work)
    folder = work / architecture
    inputs = np.load(work / "inputs.npz")
    cases = [
        (prediction_type, gamma)
        for prediction_type in ("epsilon", "v_prediction")
        for gamma in (0.0, 5.0)
    ]
    for prediction_type, gamma in cases:
        peer(
            "train",
            folder=folder,
            inputs=work / "inputs.npz",
            out=work,
            prediction_type=prediction_type,
            gamma=gamma,
            steps=steps,
        )
        name = f"{prediction_type}, min-SNR {gamma or 'off'}"
        for what, figure in our_training(
            folder, inputs, work, prediction_type, gamma, steps
        ):
            yield (f"{name}: {what}", figure)
        keras.backend.clear_session()


def our_training(folder, inputs, work, prediction_type, gamma, steps):
    model = load_ours(folder, inputs)
    network = model.diffusion_model
    width = model.spec.diffusion_model.timestep_width
    weighting = "min_snr" if gamma else "constant"
    objective = Objective(model.schedule, prediction_type, weighting)

    @tf.function
    def step(latents, noise, timesteps, context):
        noised, target = objective.noised_example(latents, noise, timesteps)
        with tf.GradientTape() as tape:
            prediction = network(
                {
                    "latent": noised,
                    "timestep_embedding": diffusion.timestep_embedding(
                        timesteps, width
                    ),
                    "context": context,
                }
            )
            losses = objective.loss(prediction, target, timesteps)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(
            loss, [weight.value for weight in network.trainable_variables]
        )

    def batch(index):
        return [
            tf.constant(inputs[f"train_{name}"][index], dtype)
            for name, dtype in (
                ("latents", "float32"),
                ("noise", "float32"),
                ("timesteps", "int32"),
                ("context", "float32"),
            )
        ]

    rows = checkpoints.network_rows("diffusion_model", model.spec)
    keys = {
        id(variable): row
        for row, variable in zip(
            rows,
            checkpoints.find_variables(network, rows).values(),
            strict=True,
        )
    }
    wanted = json.loads((work / "losses.json").read_text())
    loss, gradients = step(*batch(0))
    yield "loss", abs(float(loss) - wanted[0]) / abs(wanted[0])
    theirs = safetensors_files.open_tensors(work / "gradients.safetensors")
    figures = sorted(
        error(
            checkpoints.to_theirs(keys[id(variable)], np.asarray(gradient)),
            theirs[keys[id(variable)].theirs].read(),
        )
        for variable, gradient in zip(
            network.trainable_variables, gradients, strict=True
        )
    )
    yield f"gradients, median of {len(figures)}", figures[len(figures) // 2]
    yield f"gradients, worst of {len(figures)}", figures[-1]
    optimizer = keras_sdft.training.AdamW(
        learning_rate=1e-4, weight_decay=1e-2, global_clipnorm=1.0
    )
    optimizer.build(network.trainable_variables)
    for index in range(steps):
        loss, gradients = step(*batch(index))
        optimizer.apply(gradients, network.trainable_variables)
    yield (
        f"loss at step {steps}",
        abs(float(loss) - wanted[-1]) / abs(wanted[-1]),
    )
    theirs = safetensors_files.open_tensors(work / "trained.safetensors")
    figures = [
        error(
            checkpoints.to_theirs(row, np.asarray(variable)),
            theirs[row.theirs].read(),
        )
        for row, variable in zip(
            rows,
            checkpoints.find_variables(network, rows).values(),
            strict=True,
        )
    ]
    yield f"weights after {steps} steps, worst", max(figures)


def write_golden():
    """Small pipelines and diffusers' outputs, for the tests."""
    for architecture in ("sd1", "sd2"):
        folder = GOLDEN / architecture
        shutil.rmtree(folder, ignore_errors=True)
        config = pipeline_config(architecture, "golden")
        pad = 0 if architecture == "sd2" else "end"
        write_tokenizer(folder / "tokenizer", 600, pad)
        inputs = make_inputs(config, "golden")
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            (work / "config.json").write_text(json.dumps(config))
            np.savez(work / "inputs.npz", **inputs)
            peer("make", folder=folder, config=work / "config.json")
            peer(
                "run",
                folder=folder,
                inputs=work / "inputs.npz",
                out=work / "theirs.npz",
                steps=4,
            )
            theirs = dict(np.load(work / "theirs.npz"))
        theirs.pop("report")
        (folder / "tokenizer" / "tokenizer.json").unlink()
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        values = {name.replace(" ", "_"): v for name, v in theirs.items()}
        np.savez_compressed(
            folder / "reference.npz",
            **{f"input_{name}": value for name, value in inputs.items()},
            **values,
            versions=json.dumps(versions()),
        )
        print(folder)


def versions():
    text = subprocess.run(
        [PEER, ROOT / "benchmarks" / "_parity_peer.py", "versions"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    ours = {"tensorflow": tf.__version__, "keras": keras.__version__}
    return json.loads(text.splitlines()[-1]) | ours


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrow", action="store_true")
    parser.add_argument("--golden", action="store_true")
    parser.add_argument("--architectures", nargs="+", default=["sd1", "sd2"])
    parser.add_argument("--no_networks", action="store_true")
    parser.add_argument("--no_training", action="store_true")
    parser.add_argument("--work", type=Path, help="Scratch, 15 GB at full size")
    arguments = parser.parse_args()
    if not PEER.exists():
        raise SystemExit("There is no .venv-peers: run `make peers` first.")
    if arguments.golden:
        write_golden()
        return
    size = "narrow" if arguments.narrow else "full"
    print(f"{datetime.date.today()}, {size}, {json.dumps(versions())}")
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        for architecture in arguments.architectures:
            if not arguments.no_networks:
                prepare(architecture, size, work)
                report(architecture, compare(architecture, work))
            if not arguments.no_training:
                report(f"{architecture}, narrow", training(architecture, work))
            shutil.rmtree(work / architecture)


def report(architecture, rows):
    print(f"\n| {architecture} | |\n|---|---|", flush=True)
    for name, figure in rows:
        print(f"| {name} | {figure:.3g} |", flush=True)


if __name__ == "__main__":
    main()
