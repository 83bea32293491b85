"""Whether there is memory for a run: told, and checked, before it begins.

Reads what the GPU or the operating system has left; what training needs is
the trainer's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from keras_sdft.cli.training import parts_of

if TYPE_CHECKING:
    from keras_sdft.cli.command import Options
    from keras_sdft.cli.training_data import Data

# Files of a control group: its limit, what it uses, and the name that its
# statistics have for files that can be dropped. Version 2, then 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def check_memory(options: Options, trainer: Any, data: Data) -> None:
    """Prints what training needs and what there is, and refuses too much.

    The estimate was measured on CPUs. On a GPU too little is a warning.

    Raises:
        ValueError: If a CPU has too little, and `check_memory` is set.
    """
    import tensorflow as tf

    spec = {
        name: tf.TensorSpec((data.images_per_step, *one.shape[1:]), one.dtype)
        for name, one in data.training.element_spec.items()
    }
    estimate = trainer.memory_estimate(spec)
    where, available = available_memory()
    needed = estimate.on_device if where == "GPU" else estimate.total
    print(estimate, flush=True)
    if available is None:
        print(f"  what the {where} has is not known", flush=True)
        return
    print(f"  {f'the {where} has':<30}{available / 1e9:8.2f} GB", flush=True)
    if needed <= available or not options.check_memory:
        return
    message = (
        f"Training needs about {needed / 1e9:.1f} GB, and the {where} has "
        f"{available / 1e9:.1f} GB for it."
    )
    if where == "GPU":
        print(
            f"Warning: {message} This is an estimate that was measured on "
            f"CPUs alone. If memory runs out: {_remedies(options)}.",
            flush=True,
        )
        return
    raise ValueError(
        f"{message} Try {_remedies(options)}. To begin all the same, add "
        "`--check_memory false`."
    )


def _remedies(options: Options) -> str:
    """Returns what is left to change, what saves most first."""
    size, parts = options.batch_size, options.gradient_accumulation_steps
    half = size // 2
    others = [part.name.replace("_", " ") for part in parts_of(options)[1:]]
    found = {
        f"`--batch_size {half} --gradient_accumulation_steps "
        f"{parts * size // max(half, 1)}`, the same step in smaller parts": (
            size > 1 and size % 2 == 0
        ),
        "a smaller `--batch_size`": size > 1 and size % 2 == 1,
        "`--remat`, which computes activations twice": not options.remat,
        "a smaller `--resolution`": True,
        "`--mixed_precision bf16`": options.mixed_precision == "no",
        "`--optimizer lion`, which keeps half of AdamW's state": (
            options.optimizer != "lion"
        ),
        "no `--ema_decay`": options.ema_decay is not None,
        f"without the {' and the '.join(others)}": bool(others),
        "no `--gradient_accumulation_steps`": size == 1 and parts > 1,
    }
    return "; ".join(text for text, applies in found.items() if applies)


def available_memory() -> tuple[str, int | None]:
    """Returns `"GPU"` or `"CPU"`, and the bytes that training may take there.

    What this process has taken already is among them. `None` is not known.
    """
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return "CPU", available_on_host()
    # TensorFlow's limit already leaves out what others hold.
    with tf.compat.v1.Session() as session:
        limits = [
            device.memory_limit_bytes
            for device in session.list_devices()
            if device.device_type == "GPU"
        ]
    return "GPU", min(limits, default=None)


def available_on_host(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process may take of the machine's memory.

    Within the limits of the control groups that it is in, and with what it
    holds already. `None` where the operating system is not Linux.

    Args:
        root: Path under which `proc` and `sys` are.
    """
    try:
        machine = _bytes_by_name(root / "proc/meminfo")["MemAvailable"]
        resident = _bytes_by_name(root / "proc/self/status")["VmRSS"]
    except (OSError, KeyError):
        return None
    return resident + min([machine, *_left_in_groups(root)])


def _bytes_by_name(path: Path) -> dict[str, int]:
    """Returns the lines `name: number kB` of a file, in bytes."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {
        row[0].rstrip(":"): int(row[1]) * 1024
        for row in rows
        if len(row) == 3 and row[2] == "kB"
    }


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yields the bytes that each control group of the process has left."""
    for directory in _groups(root):
        for limit, used, files in _GROUP_FILES:
            try:
                most = (directory / limit).read_text().strip()
                taken = int((directory / used).read_text())
                stat = (directory / "memory.stat").read_text()
            except OSError:
                continue
            if most != "max":
                droppable = dict(line.split() for line in stat.splitlines())
                yield int(most) - taken + int(droppable.get(files, 0))


def _groups(root: Path) -> Iterator[Path]:
    """Yields the directories of the process's groups, and their parents."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / "sys/fs/cgroup" / controllers
        # In a container the path may be the host's; its top is the group.
        inner = top / path.strip("/")
        yield top
        while inner != top:
            yield inner
            inner = inner.parent
