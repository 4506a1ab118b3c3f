"""Run exported components in this process with onnxruntime: a ``ComponentRunner`` without Triton."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from aquatint.diffusion.rows import Tensors


class OnnxRunner:
    """One session per component, from ``paths[component]``."""

    def __init__(self, paths: dict[str, Path], threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in paths.items()
        }

    def __call__(self, component: str, inputs: Tensors) -> Tensors:
        """Run one component on a batch."""
        session = self._sessions[component]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs)))
