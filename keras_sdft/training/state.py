"""The state of a training by our own names: everything that a step changes.

No name counts the layers of a process, so a state fits any trainer that was
made in the same way. Must not know files.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras_sdft.keras_internals import optimized_variables
from keras_sdft.models.weight_layout import find_layers
from keras_sdft.models.weight_names import component_rows

_COMPONENTS = {"diffusion_model": "unet", "text_encoder": "text_encoder"}


def named_variables(trainer: Any) -> dict[str, Any]:
    """Returns the variables that training changes, by our own names.

    Args:
        trainer: A compiled `Trainer`, whose optimizer is built.

    Returns:
        Dict of `keras.Variable`: `weights.*`, `average.*`, `optimizer.*`
        (an optimizer's variable of a weight ends in the weight's name),
        `metrics.*` and `step`.
    """
    names = weight_names(trainer)
    weights = trainer.trainable_variables
    result = {f"weights.{names[id(v)]}": v for v in weights}
    if trainer.weight_average is not None:
        averages = trainer.weight_average.weights
        for weight, average in zip(weights, averages, strict=True):
            result[f"average.{names[id(weight)]}"] = average
    result.update(_optimizer_variables(trainer.optimizer, names))
    for metric in trainer.metrics:
        for variable in metric.variables:
            result[f"metrics.{metric.name}.{variable.name}"] = variable
    result["step"] = trainer.step
    return result


def weight_names(trainer: Any) -> dict[int, str]:
    """Returns the names of the weights that learn, by the variables' ids.

    Those of networks are the names of diffusers; others are made of their
    part's name and their own.
    """
    learning = {id(v) for v in trainer.trainable_variables}
    names = {
        id(variable): f"{component}.{name}"
        for network, component in _COMPONENTS.items()
        for name, variable in _network_variables(
            trainer.stable_diffusion, network, component
        )
        if id(variable) in learning
    }
    taken = set(names.values())
    for part in trainer.parts:
        for variable in part.variables:
            if id(variable) not in names:
                name = _unused(f"{part.name}.{variable.name}", taken)
                names[id(variable)] = name
    return names


def frozen_weights(trainer: Any) -> dict[str, list[Any]]:
    """Returns the weights that stay, by the network that training runs."""
    sd = trainer.stable_diffusion
    learning = {id(v) for v in trainer.trainable_variables}
    networks = {
        network: [v for _, v in _network_variables(sd, network, component)]
        for network, component in _COMPONENTS.items()
    }
    networks["image_encoder"] = sd.image_encoder.weights
    return {
        name: [v for v in variables if id(v) not in learning]
        for name, variables in networks.items()
    }


def _network_variables(
    stable_diffusion: Any, network: str, component: str
) -> Iterable[tuple[str, Any]]:
    rows = component_rows(component, stable_diffusion.spec)
    split = [(row.theirs, row.ours.rpartition(".")) for row in rows if row.ours]
    model = getattr(stable_diffusion, network)
    layers = find_layers(model, {path for _, (path, _, _) in split})
    for name, (path, _, weight) in split:
        yield name, getattr(layers[path], weight)


def _unused(name: str, taken: set[str]) -> str:
    """Returns the name, with a number if another variable has it."""
    number, result = 1, name
    while result in taken:
        number += 1
        result = f"{name}.{number}"
    taken.add(result)
    return result


def _optimizer_variables(optimizer: Any, names: dict[int, str]) -> Any:
    """Returns the variables of an optimizer and of those inside it."""
    result: dict[str, Any] = {}
    taken: set[str] = set()
    seen: set[int] = set()
    for number, leaf in enumerate(_leaves(optimizer)):
        slots = _Slots(optimized_variables(leaf), names)
        for variable in leaf.variables:
            name = slots.name(variable) or f"{number}.{variable.name}"
            result[_unused(f"optimizer.{name}", taken)] = variable
            seen.add(id(variable))
    for variable in optimizer.variables:
        if id(variable) not in seen:
            name = _unused(f"optimizer.{variable.name}", taken)
            result[name] = variable
    return result


def _leaves(optimizer: Any) -> list[Any]:
    """Returns the optimizers that update weights, inside all others."""
    inner = getattr(optimizer, "inner_optimizer", None)
    inside = [inner] if inner is not None else []
    inside += getattr(optimizer, "optimizers", ())
    if not inside:
        return [optimizer]
    return [leaf for one in inside for leaf in _leaves(one)]


class _Slots:
    """Finds the weight that an optimizer's variable belongs to.

    Keras names it after the weight: `dense_kernel_momentum`. Weights of one
    name are told apart by their order, which is that of the optimizer.

    Args:
        variables: List of the optimizer's weights.
        names: Our names, by the variables' ids.
    """

    def __init__(self, variables: list[Any], names: dict[int, str]) -> None:
        self._names: dict[str, list[str]] = {}
        for variable in variables:
            key = variable.path.replace("/", "_")
            self._names.setdefault(key, []).append(names[id(variable)])
        self._used: dict[str, int] = {}

    def name(self, variable: Any) -> str | None:
        """Returns `"momentum.unet.conv_in.weight"`, or `None`."""
        given = variable.name.replace("/", "_")
        keys = [key for key in self._names if given.startswith(f"{key}_")]
        if not keys:
            return None
        key = max(keys, key=len)
        number = self._used.get(given, 0)
        self._used[given] = number + 1
        found = self._names[key]
        if number >= len(found):
            return None
        return f"{given[len(key) + 1 :]}.{found[number]}"


def configuration(trainer: Any) -> dict[str, Any]:
    """Returns what the mathematics of a training depends on.

    Args:
        trainer: A compiled `Trainer`.

    Returns:
        Dict of what JSON can hold; equal configurations train alike.
    """
    sd = trainer.stable_diffusion
    return plain(
        {
            "train": [_described(part) for part in trainer.parts],
            "objective": trainer.denoising.loss.objective,
            "noise": trainer.noise_sampler.noise,
            "gradient_accumulation_steps": trainer.gradient_accumulation_steps,
            "ema_decay": trainer.ema_decay,
            "seed": trainer.seed,
            "optimizer": [_config(leaf) for leaf in _leaves(trainer.optimizer)],
            "precision": sd.diffusion_model.dtype_policy.name,
            "spec": sd.spec.to_dict(),
        }
    )


def _config(optimizer: Any) -> dict[str, Any]:
    config = {"class": type(optimizer).__name__, **optimizer.get_config()}
    # Keras counts the optimizers of a process in their names.
    config.pop("name", None)
    return config


def _described(part: Any) -> dict[str, Any]:
    plainly = (str, bool, int, float, tuple, type(None))
    values = {
        name: value
        for name, value in vars(part).items()
        if not name.startswith("_") and isinstance(value, plainly)
    }
    return {"name": part.name, **values}


def plain(value: Any) -> Any:
    """Returns a value as JSON gives it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        value = {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if callable(value):
        # A function's address is another one in every process.
        return getattr(value, "__qualname__", type(value).__name__)
    known = isinstance(value, (str, bool, int, float, type(None)))
    return value if known else str(value)


def differences(
    ours: dict[str, Any], theirs: dict[str, Any], name: str = ""
) -> list[str]:
    """Returns what two configurations differ in, one line each.

    Args:
        ours: Dict, `configuration` of this trainer.
        theirs: Dict, that of a checkpoint.
        name: String, where they were found.
    """
    lines = []
    for key in sorted({*ours, *theirs}):
        path = f"{name}.{key}" if name else key
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, list) and isinstance(other, list):
            one = {str(number): item for number, item in enumerate(one)}
            other = {str(number): item for number, item in enumerate(other)}
        if isinstance(one, dict) and isinstance(other, dict):
            lines += differences(one, other, path)
        elif one != other:
            lines.append(f"{path} is {one!r}, and was {other!r}")
    return lines
