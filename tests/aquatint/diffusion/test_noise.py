import numpy as np
import pytest
import torch

from aquatint.diffusion.noise import randn


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1, 2**40 + 3, 2**63 - 1])
@pytest.mark.parametrize("shape", [(16,), (17,), (1000,), (16, 8, 8), (16, 128, 128)])
def test_equal_to_torch_bit_for_bit(seed: int, shape: tuple[int, ...]) -> None:
    expected = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()
    np.testing.assert_array_equal(randn(shape, seed).view(np.uint32), expected.view(np.uint32))


def test_a_million_values() -> None:
    expected = torch.randn(1 << 20, generator=torch.Generator("cpu").manual_seed(12345)).numpy()
    np.testing.assert_array_equal(randn((1 << 20,), 12345), expected)


def test_too_few_values() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        randn((15,), 0)
