"""Arrays of torch: latents and conditioning beside the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class TorchArrays:
    """Tensors of one device."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)

    def from_host(self, array: NDArray[np.float32]) -> torch.Tensor:
        """Copy an array to the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def to_host(self, array: torch.Tensor) -> NDArray[np.float32]:
        """Copy a tensor from the device, waiting until it is computed."""
        values: NDArray[np.float32] = array.float().cpu().numpy()
        return values

    def join(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join the rows of tensors; a single one is not copied."""
        return arrays[0] if len(arrays) == 1 else torch.cat(list(arrays))
