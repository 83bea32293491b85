"""The adapters that a model was given: by name, with a strength each.

Must not know training.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_sdft import checks
from keras_sdft import hub
from keras_sdft.adapters.lora import AttachedLoRA
from keras_sdft.adapters.lora import attach_weights
from keras_sdft.adapters.textual_inversion import AttachedEmbedding
from keras_sdft.adapters.textual_inversion import attach_embeddings
from keras_sdft.formats import embedding_files
from keras_sdft.formats import lora_files


class LoadedAdapters:
    """LoRAs and embeddings of one model.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.

    Attributes:
        loras: Dict by name of `AttachedLoRA`.
        embeddings: Dict by token of `AttachedEmbedding`.
    """

    def __init__(self, stable_diffusion: Any):
        self.stable_diffusion = stable_diffusion
        self.loras: dict[str, AttachedLoRA] = {}
        self.embeddings: dict[str, AttachedEmbedding] = {}

    def load(self, path: str | Path, scale: float, name: str | None) -> str:
        """See `StableDiffusion.load_adapter`."""
        checks.number("scale", scale)
        name = Path(path).stem if name is None else name
        if name in self.loras:
            raise ValueError(
                f"An adapter of the name {name!r} is loaded already. Pass "
                "another `name=`, or unload it first."
            )
        sd = self.stable_diffusion
        file = lora_files.find(hub.local(path, "lora"))
        weights = lora_files.read(file, sd.spec)
        self.loras[name] = attach_weights(sd, weights, scale)
        return name

    def load_embedding(self, path: str | Path, token: str | None) -> list[str]:
        """See `StableDiffusion.load_embedding`."""
        found = embedding_files.read(hub.local(path, "embedding"), token)
        for one in attach_embeddings(self.stable_diffusion, found):
            self.embeddings[one.token] = one
        return list(found)

    def load_any(self, path: str | Path) -> None:
        """Loads a LoRA or an embedding, by what the file holds."""
        if lora_files.describe(path) is None:
            self.load_embedding(path, None)
        else:
            self.load(path, 1.0, None)

    def set(self, scales: Mapping[str, float]) -> None:
        """See `StableDiffusion.set_adapters`."""
        self._check(scales)
        for name, scale in scales.items():
            checks.number(f"scales[{name!r}]", scale)
        for name, lora in self.loras.items():
            lora.strength.assign(float(scales.get(name, 0.0)))

    def merge(self, names: Iterable[str] | None) -> None:
        """See `StableDiffusion.merge_adapters`."""
        for name in self._check(self.loras if names is None else names):
            self.loras.pop(name).merge()

    def unload(self, names: Iterable[str] | None) -> None:
        """See `StableDiffusion.unload_adapters`."""
        every = [*self.loras, *self.embeddings]
        known = {**self.loras, **self.embeddings}
        for name in self._check(every if names is None else names, known):
            found = self.loras.pop(name, None) or self.embeddings.pop(name)
            found.remove()

    def _check(
        self, names: Iterable[str], known: Mapping[str, Any] | None = None
    ) -> list[str]:
        known = self.loras if known is None else known
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in known:
                raise ValueError(
                    f"No adapter {name!r} is loaded. Loaded are "
                    f"{sorted(known)}.{checks.did_you_mean(name, known)}"
                )
        return names
