"""ONNX files to TensorRT engines, by one interface over two libraries.

``tensorrt`` (NGC images; data-centre GPUs) needs the GPU it builds for. ``tensorrt_rtx`` (PyPI; RTX GPUs) builds on a
machine without any, for several generations at once. Their Python APIs are nearly the same. Networks are strongly
typed: the precision of every operation is that of the ONNX file.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from aquatint.contract.errors import DependencyMissing, EngineUnavailable, InvalidConfiguration, ModelRejected
from aquatint.diffusion.served_model import ServedModel
from aquatint.repository.engine_record import FILE_NAME, PLAN_NAME, EngineRecord, ShapeRange, TensorRecord
from aquatint_export import repository
from aquatint_export.components import Component, TensorSpec
from aquatint_export.options import Dtype, ExportOptions, Target, TensorRTOptions
from aquatint_export.stages import ComponentEngine, Description, Exported

_LIBRARIES = ("tensorrt", "tensorrt_rtx")
# Turing multiplies no FP32 matrices in tensorrt_rtx.
_ON_REQUEST_ONLY = ("SM75",)


class TensorRTEngine(ComponentEngine):
    """Puts TensorRT engines in the place of the ONNX files."""

    preference = 0

    def check(self, options: ExportOptions) -> str:
        """Return which library builds the engines, and why."""
        builder, why = open_builder(options.tensorrt)
        if options.target is Target.NGC and builder.library != "tensorrt":
            raise InvalidConfiguration(
                "Triton's own TensorRT backend cannot load engines of tensorrt_rtx: export inside NVIDIA's image, or "
                "with --target embedded"
            )
        return f"build engines with {builder.library}: {why}"

    def usual_options(self, name: str) -> tuple[ExportOptions, str]:
        """Return FP16 for this machine's GPU."""
        if not torch.cuda.is_available():
            raise EngineUnavailable("there is no NVIDIA GPU to run TensorRT engines")
        _, why = open_builder(TensorRTOptions())
        return ExportOptions(name=name, engine="tensorrt", dtype=Dtype.FP16), why

    def build(self, exported: Exported, progress: Callable[[str], None]) -> Description:
        """Build an engine from every ONNX file, which it replaces."""
        builder, _ = open_builder(exported.options.tensorrt)
        described: Description = {}
        for traced in exported.traced:
            component = traced.component

            def told(stage: str, name: str = component.name) -> None:
                progress(f"{name}: {stage}")

            version = exported.write_model(traced, engine="tensorrt", on_gpu=True)
            record = builder.build(traced.path, version, profile(component, exported.served), told)
            repository.remove_onnx(version)
            described[component.name] = {"engine": record.model_dump(exclude={"inputs", "outputs", "profile"})}
        return described

    def unverified_dtype(self, options: ExportOptions) -> str | None:
        """Return the exported precision where there is a GPU to run the engines."""
        return options.dtype if torch.cuda.is_available() else None


class EngineBuilder:
    """Builds engines with one installed TensorRT library."""

    def __init__(self, library: ModuleType, options: TensorRTOptions) -> None:
        self._trt: Any = library
        self._options = options
        self._complaints: list[str] = []
        self._logger = _logger(library, self._complaints)

    @property
    def library(self) -> str:
        """``tensorrt`` or ``tensorrt_rtx``."""
        return str(self._trt.__name__)

    def build(
        self,
        onnx: Path,
        folder: Path,
        profile: dict[str, ShapeRange],
        progress: Callable[[str], None] = lambda stage: None,
    ) -> EngineRecord:
        """Write ``model.plan`` and ``engine.json`` into ``folder``.

        Raises ``ModelRejected`` with the parser's or builder's reason.
        """
        trt = self._trt
        self._complaints.clear()
        builder = trt.Builder(self._logger)
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(onnx)):
            reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise ModelRejected(f"{self.library} cannot read {onnx.name}: {reasons}")
        config = builder.create_builder_config()
        config.add_optimization_profile(_optimization_profile(builder, network, profile))
        capabilities = self._configure(config)
        config.progress_monitor = _monitor(trt, progress)
        cache = self._open_timing_cache(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ModelRejected(f"{self.library} cannot build this engine: {'; '.join(self._complaints)}")
        self._save_timing_cache(cache)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN_NAME).write_bytes(memoryview(plan))
        record = EngineRecord(
            library=self.library,
            version=str(trt.__version__),
            compute_capabilities=capabilities,
            inputs=_describe([network.get_input(index) for index in range(network.num_inputs)]),
            outputs=_describe([network.get_output(index) for index in range(network.num_outputs)]),
            profile=profile,
            refittable=self._options.refit,
            weight_streaming=self._options.weight_streaming,
            plan_bytes=plan.nbytes,
        )
        (folder / FILE_NAME).write_text(record.model_dump_json(indent=1) + "\n")
        return record

    def _configure(self, config: Any) -> list[str]:
        """Set flags and limits; returns the compute capabilities the engine will be for."""
        trt, options = self._trt, self._options
        if options.refit:
            config.set_flag(trt.BuilderFlag.REFIT)
        if options.weight_streaming:
            config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if self.library != "tensorrt_rtx":
            return [_this_gpu()]
        known = sorted(name for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        wanted = list(options.compute_capabilities) or [name for name in known if name not in _ON_REQUEST_ONLY]
        if unknown := set(wanted) - set(known):
            raise InvalidConfiguration(
                f"tensorrt_rtx builds for {', '.join(known)}, not for {', '.join(sorted(unknown))}"
            )
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
        return [name.lower() for name in wanted]

    def _open_timing_cache(self, config: Any) -> Any:
        file = self._options.timing_cache
        if file is None:
            return None
        cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
        with warnings.catch_warnings():
            # tensorrt_rtx warns that it will have another cache one day; tensorrt has no other.
            warnings.simplefilter("ignore", DeprecationWarning)
            config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _save_timing_cache(self, cache: Any) -> None:
        if cache is not None and self._options.timing_cache is not None:
            self._options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
            self._options.timing_cache.write_bytes(memoryview(cache.serialize()))


def open_builder(options: TensorRTOptions) -> tuple[EngineBuilder, str]:
    """Open a builder, and say why its library was chosen. Raises ``DependencyMissing`` when none is installed."""
    for name in _LIBRARIES:
        # PyPI's package of the name ``tensorrt`` can be an empty stub.
        if importlib.util.find_spec(name) is not None and hasattr(library := importlib.import_module(name), "Builder"):
            return EngineBuilder(library, options), f"{name} {library.__version__} is installed"
    raise DependencyMissing(
        "no TensorRT here: use NVIDIA's image, or install tensorrt-rtx-cu13 as the guide to engines says"
    )


def profile(component: Component, served: ServedModel) -> dict[str, ShapeRange]:
    """Find the shapes a component is called with within the limits; fastest for a guided default image."""
    return {spec.name: _range(spec, component, served) for spec in component.inputs}


def _range(spec: TensorSpec, component: Component, served: ServedModel) -> ShapeRange:
    clip = max((encoder.tokens for encoder in served.text_encoders if encoder.kind == "clip"), default=0)
    other = sum(encoder.tokens for encoder in served.text_encoders if encoder.kind != "clip")
    tokens = component.max_tokens or clip + other
    scale = served.vae_scale_factor
    smallest, largest = served.min_size // scale, served.max_size // scale
    axes = {
        # Prompts are padded, so their length never varies.
        "sequence": (tokens, tokens, tokens),
        "latent_height": (smallest, served.default_height // scale, largest),
        "latent_width": (smallest, served.default_width // scale, largest),
    }
    rows = (1, min(2, served.max_batch_size), served.max_batch_size)
    shapes = [
        [rows[size], *(axes[axis][size] if isinstance(axis, str) else axis for axis in spec.shape)] for size in range(3)
    ]
    return ShapeRange(smallest=shapes[0], fastest=shapes[1], largest=shapes[2])


def _strongly_typed(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _optimization_profile(builder: Any, network: Any, shapes: dict[str, ShapeRange]) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        made.set_shape(name, shapes[name].smallest, shapes[name].fastest, shapes[name].largest)
    return made


def _describe(tensors: list[Any]) -> dict[str, TensorRecord]:
    return {tensor.name: TensorRecord(dtype=tensor.dtype.name, shape=list(tensor.shape)) for tensor in tensors}


def _logger(trt: Any, complaints: list[str]) -> Any:
    """Keeps what TensorRT says of errors, for it returns none."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the library is only known when it runs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                complaints.append(message)

    return Logger()


def _monitor(trt: Any, progress: Callable[[str], None]) -> Any:
    """Tells of the builder's outer phases; the inner ones are too many to read."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library is only known when it runs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None or parent.startswith("Building engine"):
                progress(name.lower())

        def phase_finish(self, name: str) -> None:
            pass

        def step_complete(self, name: str, step: int) -> bool:
            return True

    return Monitor()


def _this_gpu() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


ENGINE = TensorRTEngine()
