"""LoRA: what learns is a low-rank addition to frozen layers.

Must not know losses, optimizers or file formats.

References:
    Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021.
    Hayou et al., LoRA+: Efficient Low Rank Adaptation of Large Models, 2024.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdft import checks
from keras_sdft.adapters import targets as target_layers
from keras_sdft.adapters.low_rank import Dropout
from keras_sdft.adapters.low_rank import LowRank
from keras_sdft.adapters.part import Group
from keras_sdft.adapters.part import Part
from keras_sdft.diffusion import stateless_seed
from keras_sdft.formats import lora_files
from keras_sdft.formats.lora_files import LowRankWeights
from keras_sdft.models import adapted
from keras_sdft.models.spec import FROZEN_DTYPES
from keras_sdft.models.weight_names import modules

# By component of diffusers, then by its module name.
Weights = Mapping[str, Mapping[str, LowRankWeights]]


class AttachedLoRA:
    """A LoRA in the layers of one model.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        scale: Float, the strength it is added with.

    Attributes:
        strength: Float32 scalar `keras.Variable`; 0 is the base alone.
        layers: Dict by component and module name of `LowRank`.
    """

    def __init__(self, stable_diffusion: Any, scale: float = 1.0):
        self.stable_diffusion = stable_diffusion
        self.strength = keras.Variable(
            float(scale), dtype="float32", trainable=False, name="strength"
        )
        self.layers: dict[str, dict[str, LowRank]] = {}

    def add(self, component: str, layers: Mapping[str, LowRank]) -> None:
        """Attaches adapters to the layers of one network.

        Args:
            component: `"unet"` or `"text_encoder"`.
            layers: Dict of `LowRank` by module name.
        """
        self.layers[component] = dict(layers)
        for adapter in layers.values():
            adapted.attach(adapter.layer, adapter)
        adapted.forget_graphs(self._network(component))

    def remove(self) -> None:
        """Detaches all; the model is its base again."""
        for component, layers in self.layers.items():
            for adapter in layers.values():
                adapted.detach(adapter.layer, adapter)
            adapted.forget_graphs(self._network(component))
        self.layers = {}

    def merge(self) -> None:
        """Writes the additions into the base's kernels and detaches all.

        Raises:
            ValueError: If kernels are held in fewer bits: what is merged
                would be rounded away.
        """
        self.stable_diffusion.check_full_precision()
        for layers in self.layers.values():
            for adapter in layers.values():
                kernel = adapter.layer.kernel
                kernel.assign(adapter.merged_kernel())
        self.remove()

    @property
    def weights(self) -> dict[str, dict[str, LowRankWeights]]:
        """The values that a file holds, by component and module name."""
        return {
            component: {name: one.weights for name, one in layers.items()}
            for component, layers in self.layers.items()
        }

    @property
    def learned(self) -> list[Any]:
        """All variables that learn."""
        return [
            variable
            for layers in self.layers.values()
            for adapter in layers.values()
            for variable in adapter.learned
        ]

    def _network(self, component: str) -> Any:
        name = target_layers.NETWORKS[component]
        return getattr(self.stable_diffusion, name)


def attach_weights(
    stable_diffusion: Any, weights: Weights, scale: float = 1.0
) -> AttachedLoRA:
    """Attaches a LoRA that was read from a file.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        weights: Dict by component and diffusers' module name of
            `LowRankWeights`.
        scale: Float, the strength it is added with.

    Returns:
        An `AttachedLoRA`.

    Raises:
        ValueError: If the model has no such layer, or one of another shape.
    """
    attached = AttachedLoRA(stable_diffusion, scale)
    made = {
        component: _made(stable_diffusion, component, given, attached.strength)
        for component, given in weights.items()
    }
    for component, layers in made.items():
        attached.add(component, layers)
    return attached


def _made(
    sd: Any,
    component: str,
    weights: Mapping[str, LowRankWeights],
    strength: Any,
) -> dict[str, LowRank]:
    known = modules(component, sd.spec)
    unknown = sorted(set(weights) - set(known))
    if unknown:
        raise ValueError(
            f"The LoRA has {len(unknown)} layers that this model's "
            f"{component} lacks: {unknown[:3]}. Was it trained for another "
            "model?"
        )
    paths = {name: known[name] for name in weights}
    layers = target_layers.layers(sd, component, paths)
    found = {}
    for name, layer in layers.items():
        given = weights[name]
        found[name] = LowRank(
            layer,
            given.rank,
            given.alpha,
            strength,
            use_dora=given.magnitude is not None,
            name=name,
        )
        found[name].assign(given)
    return found


class LoRA(Part):
    """Trains low-rank additions to layers of the frozen networks.

    An entry of `Trainer(train=[...])`. `alpha` is `rank` unless given, so
    that a learning rate fits every rank; at the start nothing changes. The
    networks' own weights do not learn.

    Args:
        rank: Integer >= 1.
        alpha: Float > 0; additions are scaled by `alpha / rank`. Defaults
            to `rank`.
        targets: `"attention"` (queries, keys, values and outputs),
            `"linear"` (all dense layers and 1x1 convolutions of transformer
            blocks), `"all"` (the other blocks' layers and 3x3 convolutions
            too), or patterns of diffusers' module names.
        text_encoder: Boolean, whether the text encoder is adapted too.
        ranks: Dict of ranks by pattern of module names, for layers with
            another rank than `rank`.
        dropout: Float in [0, 1), the share of inputs that additions do not
            see while training.
        use_dora: Boolean, whether magnitudes are learned apart from
            directions (DoRA).
        rank_stabilized: Boolean, whether additions are scaled by
            `alpha / sqrt(rank)`.
        frozen_dtype: `"float32"`, `"bfloat16"` or `"int8"`, what the
            kernels of the adapted networks are held in.
        up_learning_rate: Float > 0, another rate for the matrices `up`
            (LoRA+); only with `learning_rate`.
        seed: Integer >= 0, of the first values.
        learning_rate: See `Part`.
        optimizer: See `Part`.
        stop_step: See `Part`.

    Example:

    ```python
    trainer = keras_sdft.Trainer(sd, train=keras_sdft.adapters.LoRA(16))
    trainer.compile(keras_sdft.training.AdamW(1e-4))
    ```
    """

    name = "lora"
    keeps_base = True

    def __init__(
        self,
        rank: int = 16,
        alpha: float | None = None,
        targets: str | Sequence[str] = "attention",
        *,
        text_encoder: bool = False,
        ranks: Mapping[str, int] | None = None,
        dropout: float = 0.0,
        use_dora: bool = False,
        rank_stabilized: bool = False,
        frozen_dtype: str = "float32",
        up_learning_rate: float | None = None,
        seed: int = 0,
        learning_rate: float | None = None,
        optimizer: Any = None,
        stop_step: int | None = None,
    ):
        super().__init__(
            learning_rate=learning_rate,
            optimizer=optimizer,
            stop_step=stop_step,
        )
        self.rank = checks.integer("rank", rank, 1)
        if alpha is not None:
            checks.number("alpha", alpha, above=0)
        checks.number("dropout", dropout, 0, below=1)
        for pattern, other in (ranks or {}).items():
            checks.integer(f"ranks[{pattern!r}]", other, 1)
        if up_learning_rate is not None:
            checks.number("up_learning_rate", up_learning_rate, above=0)
            if learning_rate is None:
                raise ValueError(
                    "`up_learning_rate` is another rate than `learning_rate`, "
                    "which must be given with it. Received: "
                    f"up_learning_rate={up_learning_rate!r}."
                )
        self.alpha = alpha
        self.targets = targets
        self.components = ("unet", "text_encoder")[: 1 + bool(text_encoder)]
        self.networks = ("text_encoder", "diffusion_model")[
            0 if text_encoder else 1 :
        ]
        self.ranks = dict(ranks or {})
        self.dropout = dropout
        self.use_dora = use_dora
        self.rank_stabilized = rank_stabilized
        self.frozen_dtype = checks.one_of(
            "frozen_dtype", frozen_dtype, FROZEN_DTYPES
        )
        self.up_learning_rate = up_learning_rate
        self.seed = checks.integer("seed", seed, 0)
        self.attached: AttachedLoRA | None = None

    def attach(self, stable_diffusion: Any) -> None:
        """Attaches fresh adapters to the model's frozen layers."""
        for component in self.components:
            network = target_layers.NETWORKS[component]
            stable_diffusion.hold_kernels(network, self.frozen_dtype)
        self.attached = AttachedLoRA(stable_diffusion)
        self.dropout_seed = keras.Variable(
            np.zeros(2, "int32"), trainable=False, name="dropout_seed"
        )
        self.dropout_active = keras.Variable(
            0.0, dtype="float32", trainable=False, name="dropout_active"
        )
        fresh = {name: self._fresh(name) for name in self.components}
        if not any(fresh.values()):
            known = modules("unet", stable_diffusion.spec)
            raise ValueError(
                "`targets` match no layer. Received: targets="
                f"{self.targets!r}. Layers are named as "
                f"{next(iter(known))!r}."
            )
        for component, layers in fresh.items():
            self.attached.add(component, layers)

    def prepare(self, step: Any, training: bool) -> None:
        """Sets what dropout's random numbers depend on."""
        if self.dropout:
            seed = stateless_seed(self.seed, "lora_dropout", step)
            self.dropout_seed.assign(ops.cast(seed.next(), "int32"))
            self.dropout_active.assign(float(training))

    @property
    def variables(self) -> list[Any]:
        """The variables that learn."""
        return self.attached.learned

    def groups(self) -> list[Group]:
        """Returns one group, or with LoRA+ two."""
        if self.up_learning_rate is None:
            return super().groups()
        ups = {
            id(adapter.up)
            for layers in self.attached.layers.values()
            for adapter in layers.values()
        }
        by_kind: tuple[list[Any], list[Any]] = ([], [])
        for variable in self.variables:
            by_kind[id(variable) in ups].append(variable)
        rates = (self.learning_rate, self.up_learning_rate)
        return [
            Group(variables, rate, stop_step=self.stop_step)
            for variables, rate in zip(by_kind, rates, strict=True)
        ]

    def files(self) -> dict[str, Callable[[Path], None]]:
        """Returns the file that diffusers' `load_lora_weights` reads."""
        return {lora_files.FILE: self.save}

    def save(self, path: str | Path, dialect: str = "diffusers") -> None:
        """Writes the adapters to a `.safetensors` file.

        Args:
            path: The file; replaced if it exists.
            dialect: `"diffusers"` or `"kohya"`.
        """
        spec = self.attached.stable_diffusion.spec
        lora_files.write(path, self.attached.weights, spec, dialect)

    def _fresh(self, component: str) -> dict[str, LowRank]:
        sd = self.attached.stable_diffusion
        selected = target_layers.select(component, sd.spec, self.targets)
        layers = target_layers.layers(sd, component, selected)
        found = {}
        for index, (name, layer) in enumerate(layers.items()):
            rank = self._rank(name)
            found[name] = LowRank(
                layer,
                rank,
                float(rank if self.alpha is None else self.alpha),
                self.attached.strength,
                rank_stabilized=self.rank_stabilized,
                use_dora=self.use_dora,
                dropout=self._dropout(index),
                seed=self.seed * 100_003 + index,
                name=name,
            )
        return found

    def _rank(self, name: str) -> int:
        for pattern, rank in self.ranks.items():
            if target_layers.matches(name, pattern):
                return rank
        return self.rank

    def _dropout(self, index: int) -> Dropout | None:
        if not self.dropout:
            return None
        return Dropout(
            self.dropout, self.dropout_seed, self.dropout_active, index
        )
