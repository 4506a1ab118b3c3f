"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path

# A container's CPU limit (cgroup v2): microseconds of each period, or "max".
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus() -> int:
    """Count the CPUs that this process may use: onnxruntime's own default counts those of the whole machine."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else min(allowed, max(1, -(-int(quota) // int(period))))
