import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from aquatint.diffusion import samplers
from aquatint.diffusion.guidance import guide
from aquatint.diffusion.samplers.flow_match import FlowMatchConfig

CONFIGS = [
    {"shift": 1.0},
    {"shift": 3.0},
    {"shift": 1.0, "use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.3, "time_shift_type": "linear"},
    {"shift": 2.0, "shift_terminal": 0.1},
]


@pytest.mark.parametrize("name", list(samplers.registry()))
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("steps", [2, 4, 28, 150])
@pytest.mark.parametrize("image_seq_len", [16, 1024, 4096])
def test_schedule_and_steps_equal_diffusers(
    name: str, config: dict[str, object], steps: int, image_seq_len: int
) -> None:
    parsed = FlowMatchConfig.from_diffusers(FlowMatchEulerDiscreteScheduler(**config).config)
    kind = samplers.registry()[name]
    if not kind.supports(parsed):
        assert name == "heun"
        assert {"use_dynamic_shifting", "shift_terminal"} & set(config)
        return
    theirs = getattr(diffusers, kind.diffusers_scheduler).from_config(FlowMatchEulerDiscreteScheduler(**config).config)
    shift = calculate_shift(image_seq_len, 256, 4096, parsed.base_shift, parsed.max_shift)
    theirs.set_timesteps(steps, **({"mu": shift} if config.get("use_dynamic_shifting") else {}))
    ours = kind(parsed, steps, image_seq_len)
    np.testing.assert_allclose(ours.schedule.sigmas, theirs.sigmas.numpy(), atol=1e-6, rtol=0)
    np.testing.assert_allclose(ours.schedule.timesteps, theirs.timesteps.numpy(), atol=1e-3, rtol=0)

    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(2, 16, 4, 4, generator=generator)
    latents = expected.numpy()
    for index, timestep in enumerate(theirs.timesteps):
        # A velocity that depends on where it is taken, so that a step begun in the wrong place is noticed.
        noise = torch.randn(2, 16, 4, 4, generator=generator)
        expected = theirs.step(noise + expected * 0.5, timestep, expected, return_dict=False)[0]
        latents = ours.step(latents, noise.numpy() + latents * np.float32(0.5), index)
    np.testing.assert_allclose(latents, expected.numpy(), atol=2e-5, rtol=1e-5)


def test_torch_latents_stay_torch() -> None:
    """State may live on a device: only operators do arithmetic."""
    for kind in samplers.registry().values():
        sampler = kind(FlowMatchConfig(), 3, 16)
        latents = torch.ones(1, 2, 2, 2)
        for index in range(len(sampler.schedule.timesteps)):
            latents = sampler.step(latents, latents * 0.5, index)
        assert isinstance(latents, torch.Tensor)
        assert latents.dtype == torch.float32


def test_the_default_comes_first() -> None:
    assert next(iter(samplers.registry())) == "euler"
    assert "heun" in samplers.registry()
    assert samplers.available({"shift": 3.0}) == ("euler", "heun")
    assert samplers.available({"use_dynamic_shifting": True}) == ("euler",)


def test_unsupported_options_are_refused() -> None:
    with pytest.raises(ValueError, match="use_karras_sigmas"):
        FlowMatchConfig.from_diffusers({"use_karras_sigmas": True})


def test_guidance() -> None:
    unconditional, conditional = np.array([1.0, 2.0], np.float32), np.array([2.0, 0.0], np.float32)
    np.testing.assert_array_equal(guide(unconditional, conditional, 1.0), conditional)
    np.testing.assert_array_equal(guide(unconditional, conditional, 3.0), np.array([4.0, -4.0], np.float32))
