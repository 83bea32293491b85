"""Arrays of one process' devices as parts of those of all processes.

Each process makes, reads and writes models on its own devices alone. A step
means them all: its state is the same in each process, and its batch is the
rows of all, in their order. Both ways share the memory. Must not know what a
step computes.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

_PROCESSES = "processes"


class WholeArrays:
    """Converts between the arrays of this process and of all.

    Args:
        distribution: The `keras.distribution.Distribution` of this process'
            devices, one of `keras_sdft.devices.share`.
    """

    def __init__(self, distribution: Any):
        self.own_mesh = distribution.device_mesh.backend_mesh
        self.axis = distribution.batch_dim_name
        own = self.own_mesh.devices.size
        # The devices of each process are in the order of its own mesh.
        devices: dict[int, list[Any]] = {}
        for device in jax.devices():
            devices.setdefault(device.process_index, []).append(device)
        devices[jax.process_index()] = list(self.own_mesh.devices.flat)
        rows = [devices[index] for index in sorted(devices)]
        self.mesh = Mesh(
            np.array(rows).reshape(-1, own), (_PROCESSES, self.axis)
        )

    def whole(self, value: Any) -> Any:
        """Returns an array that all processes have alike as one of all."""
        if not value.is_fully_addressable:
            return value
        sharding = value.sharding
        is_own = isinstance(sharding, NamedSharding)
        if not is_own or sharding.mesh != self.own_mesh:
            sharding = NamedSharding(self.own_mesh, PartitionSpec())
            value = jax.device_put(value, sharding)
        return self._joined(value, value.shape, sharding.spec)

    def rows(self, value: Any) -> Any:
        """Returns the rows of all processes, whose own are an array's."""
        own = NamedSharding(self.own_mesh, PartitionSpec(self.axis))
        value = jax.device_put(value, own)
        shape = (self.mesh.shape[_PROCESSES] * value.shape[0], *value.shape[1:])
        spec = PartitionSpec((_PROCESSES, self.axis))
        return self._joined(value, shape, spec)

    def own(self, value: Any) -> Any:
        """Returns an array of `whole` as one of this process."""
        if value.is_fully_addressable:
            return value
        return _made_of(
            value,
            value.shape,
            NamedSharding(self.own_mesh, value.sharding.spec),
        )

    def _joined(self, value: Any, shape: Any, spec: Any) -> Any:
        return _made_of(value, shape, NamedSharding(self.mesh, spec))


def _made_of(value: Any, shape: tuple[int, ...], sharding: Any) -> Any:
    parts = [shard.data for shard in value.addressable_shards]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
