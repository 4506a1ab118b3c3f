import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from aquatint.diffusion.scheduler import FlowMatchEulerScheduler, euler_step, guide

CONFIGS = [
    {"shift": 1.0},
    {"shift": 3.0},
    {"shift": 1.0, "use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.3, "time_shift_type": "linear"},
    {"shift": 2.0, "shift_terminal": 0.1},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("steps", [2, 4, 28, 150])
@pytest.mark.parametrize("image_seq_len", [16, 1024, 4096])
def test_schedule_and_steps_equal_diffusers(config: dict[str, object], steps: int, image_seq_len: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    ours = FlowMatchEulerScheduler.from_config(dict(theirs.config))
    shift = calculate_shift(image_seq_len, 256, 4096, theirs.config.base_shift, theirs.config.max_shift)
    theirs.set_timesteps(steps, **({"mu": shift} if config.get("use_dynamic_shifting") else {}))
    sigmas = ours.sigmas(steps, image_seq_len)
    np.testing.assert_allclose(sigmas, theirs.sigmas.numpy(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(ours.timesteps(sigmas), theirs.timesteps.numpy(), atol=1e-3, rtol=0)

    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(2, 16, 4, 4, generator=generator)
    latents = expected.numpy()
    for index, timestep in enumerate(theirs.timesteps):
        velocity = torch.randn(2, 16, 4, 4, generator=generator)
        expected = theirs.step(velocity, timestep, expected, return_dict=False)[0]
        latents = euler_step(latents, velocity.numpy(), sigmas[index], sigmas[index + 1])
    np.testing.assert_allclose(latents, expected.numpy(), atol=1e-6, rtol=0)


def test_unsupported_options_are_refused() -> None:
    with pytest.raises(ValueError, match="use_karras_sigmas"):
        FlowMatchEulerScheduler.from_config({"use_karras_sigmas": True})


def test_guidance() -> None:
    unconditional, conditional = np.array([1.0, 2.0], np.float32), np.array([2.0, 0.0], np.float32)
    np.testing.assert_array_equal(guide(unconditional, conditional, 1.0), conditional)
    np.testing.assert_array_equal(guide(unconditional, conditional, 3.0), np.array([4.0, -4.0], np.float32))
