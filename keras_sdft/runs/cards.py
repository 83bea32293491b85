"""The model card of a run's weights, from what the run has noted.

Must not know where the card is written.
"""

import contextlib
from typing import Any

from keras_sdft.models import ModelCard
from keras_sdft.runs.directory import RunDirectory
from keras_sdft.runs.report.facts import read_facts
from keras_sdft.runs.report.images import preview_steps


def model_card(run: RunDirectory) -> ModelCard:
    """Returns what a run knows of its weights, for `Trainer.export`.

    Its settings are those of `config.yaml`; the images are its last preview.

    Args:
        run: `RunDirectory` of a run that has been trained.
    """
    import yaml

    from keras_sdft.callbacks.previews import split_preview

    config: dict[str, Any] = {}
    images: tuple[tuple[str, Any], ...] = ()
    # Weights are exported with less on their card rather than not at all.
    with contextlib.suppress(OSError, ValueError):
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    last = preview_steps(run.previews, 1)[-1:]
    with contextlib.suppress(OSError, ValueError):
        images = tuple(split_preview(last[0])) if last else ()
    data = read_facts(run.path).get("data", [])
    return ModelCard(
        license=config.get("license") or ModelCard.license,
        instance_prompt=config.get("instance_prompt") or config.get("token"),
        images=images,
        details={
            "images": data[0]["used"] if data else None,
            "learning rate": config.get("learning_rate"),
            "batch size": config.get("batch_size"),
            "accumulated batches": config.get("gradient_accumulation_steps"),
        },
    )
