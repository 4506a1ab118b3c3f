"""Complete Triton model configurations from the request contract."""

from __future__ import annotations

from typing import Any

from aquatint.contract.fields import TENSORS, is_required
from aquatint.contract.wire import OUTPUTS


def complete(auto_complete_model_config: Any) -> Any:
    """Add the contract's inputs and outputs to a configuration; only a decoupled model can send previews."""
    policy = auto_complete_model_config.as_dict().get("model_transaction_policy", {})
    for name, tensor in TENSORS.items():
        if policy.get("decoupled") or not tensor.stream_only:
            described = {"name": name, "data_type": tensor.triton, "dims": [1], "optional": not is_required(name)}
            auto_complete_model_config.add_input(described)
    for name, output in OUTPUTS.items():
        described = {"name": name, "data_type": output.type.triton, "dims": list(output.dims)}
        auto_complete_model_config.add_output(described)
    return auto_complete_model_config
