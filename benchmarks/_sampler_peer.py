"""Records what diffusers' samplers make of noise, for the tests of ours.

    .venv-peers/bin/python benchmarks/_sampler_peer.py

writes `tests/diffusion/golden_samplers.json`. A formula stands in the place
of a network; the tests have it too.
"""

import itertools
import json
from pathlib import Path

import diffusers
import numpy as np
import torch

GOLDEN = Path(__file__).parent.parent / "tests/diffusion/golden_samplers.json"
SHAPE = (1, 2, 3, 4)
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


def prediction(x, t):
    x = x.numpy().astype("float64")
    y = 0.5 * np.tanh(x) * np.cos(t / 700) + 0.3 * np.roll(x, 1, axis=-1)
    return torch.tensor(y, dtype=torch.float32)


def cases():
    """Yields what is compared; DDIM's "linspace" is another one there."""
    for sampler, spacing, predicts, steps in itertools.product(
        CLASSES,
        ("linspace", "leading", "trailing"),
        ("epsilon", "v_prediction"),
        (1, 5, 20),
    ):
        if (sampler, spacing) != ("ddim", "linspace"):
            offset = int(spacing == "leading" and steps != 5)
            yield sampler, spacing, predicts, steps, offset, False
    for sampler in CLASSES:
        yield sampler, "trailing", "v_prediction", 10, 0, True


def latents(sampler, spacing, predicts, steps, offset, zero_snr, noise):
    scheduler = CLASSES[sampler](
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing=spacing,
        steps_offset=offset,
        prediction_type=predicts,
        rescale_betas_zero_snr=zero_snr,
        **({"clip_sample": False} if sampler == "ddim" else {}),
    )
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        y = prediction(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(y, t, x).prev_sample
    return x.numpy()


def main():
    noise = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    names = (
        "sampler",
        "spacing",
        "prediction_type",
        "num_steps",
        "steps_offset",
        "zero_terminal_snr",
    )
    found = []
    for case in cases():
        x = latents(*case, torch.tensor(noise)).ravel()
        numbers = [float(f"{value:.7g}") for value in x]
        found.append(dict(zip(names, case, strict=True), latents=numbers))
    golden = {
        "diffusers": diffusers.__version__,
        "shape": SHAPE,
        "noise": [float(value) for value in noise.ravel()],
        "cases": found,
    }
    lines = [f"  {json.dumps(case)}" for case in golden.pop("cases")]
    text = json.dumps(golden)[:-1] + ', "cases": [\n' + ",\n".join(lines)
    GOLDEN.write_text(text + "\n]}\n")


if __name__ == "__main__":
    main()
