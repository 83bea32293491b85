"""Which layers of a network an adapter can be attached to, by name.

Layers have diffusers' module names, which users and files of the field know:
`down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`. Must not know
what is attached.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

from keras_sdft import checks
from keras_sdft.models.weight_layout import find_layers
from keras_sdft.models.weight_names import modules

# diffusers' component and the network of ours that it is.
NETWORKS = {"unet": "diffusion_model", "text_encoder": "text_encoder"}

_ATTENTION = r"(attn\d|self_attn)\.(to_[qkv]|to_out\.0|[qkv]_proj|out_proj)$"
# As kohya's trainer: what is dense or 1x1 in transformer blocks; and what is
# convolved with it. The first and the last convolution and the timestep's
# layers have no adapters in any tool.
_LINEAR = r"(\.attentions\.|\.encoder\.layers\.).*"
_ALL = _LINEAR + r"|.*\.(resnets|downsamplers|upsamplers)\..*"
_NAMED = {"attention": r".*" + _ATTENTION, "linear": _LINEAR, "all": _ALL}
TARGETS = tuple(_NAMED)


def select(
    component: str, spec: Any, targets: str | Sequence[str]
) -> dict[str, str]:
    """Returns the modules that `targets` name.

    Args:
        component: `"unet"` or `"text_encoder"`.
        spec: A `StableDiffusionSpec`.
        targets: `"attention"`, `"linear"`, `"all"`, or one or several
            patterns of module names with `*`, for example
            `"*.attn2.to_[kv]"`.

    Returns:
        A dict of our layers' paths by diffusers' name.

    Raises:
        ValueError: If `targets` is no name and no pattern.
    """
    found = modules(component, spec)
    patterns = [targets] if isinstance(targets, str) else list(targets)
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"`targets` must be one of {list(TARGETS)} or patterns of module "
            f"names. Received: targets={targets!r}."
        )
    for pattern in patterns:
        if pattern not in _NAMED and not set("*?[.") & set(pattern):
            checks.one_of("targets", pattern, TARGETS)
    return {
        name: path
        for name, path in found.items()
        if any(matches(name, pattern) for pattern in patterns)
    }


def matches(name: str, pattern: str) -> bool:
    """Returns whether a module's name is one of a pattern's."""
    if pattern in _NAMED:
        return re.search(_NAMED[pattern], f".{name}") is not None
    return fnmatch.fnmatchcase(name, pattern)


def layers(stable_diffusion: Any, component: str, names: Any) -> dict[str, Any]:
    """Returns the layers of a model's network by diffusers' module name.

    Args:
        stable_diffusion: A `keras_sdft.StableDiffusion`.
        component: `"unet"` or `"text_encoder"`.
        names: Dict of our paths by diffusers' name, from `select`.
    """
    network = getattr(stable_diffusion, NETWORKS[component])
    found = find_layers(network, names.values())
    return {name: found[path] for name, path in names.items()}
