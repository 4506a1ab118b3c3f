"""The ``onnx`` backend in a real Triton, with models that have nothing to do with images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from aquatint.contract.errors import EngineUnavailable
from aquatint.server import TritonServer
from tests.e2e.conftest import FREE_PORTS, Metrics

pytestmark = pytest.mark.e2e


def write_model(folder: Path, config: str, *, batched: bool = True) -> None:
    """Write ``y = x @ ones(3, 2) + bias`` with a scalar ``bias`` per row; it fails with over four columns of ``x``."""
    axis = "batch" if batched else 5
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["bias", "one"], ["column"]),
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node("Add", ["product", "column"], ["y"]),
        ],
        "linear",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [axis, "columns"]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [axis]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [axis, 2])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, [3, 2], np.ones(6)),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    (folder / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config)


MINIMAL = 'backend: "onnx"\ninstance_group { kind: KIND_CPU count: %d }\n'
SLOW = "dynamic_batching { max_queue_delay_microseconds: 100000 }\nmax_batch_size: 8\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository / "minimal", MINIMAL % 1)
    write_model(repository / "fixed", MINIMAL % 1, batched=False)
    write_model(repository / "patient", MINIMAL % 1 + SLOW)
    threads = 'parameters { key: "intra_op_num_threads" value { string_value: "1" } }\n'
    write_model(repository / "two", MINIMAL % 2 + threads)
    with TritonServer(repository, FREE_PORTS, verify=False) as running:
        yield running


def infer(
    server: TritonServer, model: str, *, x: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    inputs = []
    for name, value in (("x", x), ("bias", bias)):
        inputs.append(tritonclient.grpc.InferInput(name, value.shape, "FP32"))
        inputs[-1].set_data_from_numpy(value)
    with contextlib.closing(tritonclient.grpc.InferenceServerClient(server.grpc_url)) as client:
        result: NDArray[np.float32] | None = client.infer(model, inputs).as_numpy("y")
    assert result is not None
    return result


def rows(n: int, columns: int = 3) -> NDArray[np.float32]:
    return np.arange(n * columns, dtype=np.float32).reshape(n, columns)


@pytest.mark.parametrize("model", ["minimal", "two", "patient"])
def test_runs_a_batch(server: TritonServer, model: str) -> None:
    x, bias = rows(5), np.arange(5, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        infer(server, model, x=x, bias=bias), x.sum(axis=1, keepdims=True) + bias + np.zeros((5, 2))
    )


def test_fills_in_the_configuration(server: TritonServer) -> None:
    with contextlib.closing(tritonclient.grpc.InferenceServerClient(server.grpc_url)) as client:
        batched = client.get_model_config("minimal").config
        fixed = client.get_model_config("fixed").config
        two = client.get_model_config("two").config
    assert batched.max_batch_size == 32
    assert batched.HasField("dynamic_batching")
    assert {port.name: list(port.dims) for port in batched.input} == {"x": [-1], "bias": [1]}
    assert {port.name: list(port.dims) for port in batched.output} == {"y": [2]}
    assert fixed.max_batch_size == 0
    assert {port.name: list(port.dims) for port in fixed.input} == {"x": [5, -1], "bias": [5]}
    assert two.instance_group[0].count == 2
    assert len([name for name in server._backend_processes() if name == "two"]) == 1


def test_one_run_serves_many_requests_and_splits_them(server: TritonServer) -> None:
    metrics = Metrics(server.metrics_url)
    before = metrics("aquatint_engine_batches_total", model="patient")
    tasks = [(rows(1) + index, np.full((1, 1), index, np.float32)) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda task: infer(server, "patient", x=task[0], bias=task[1]), tasks))
    for (x, bias), answer in zip(tasks, answers):
        np.testing.assert_array_equal(answer, x.sum(axis=1, keepdims=True) + bias + np.zeros((1, 2)))
    assert metrics("aquatint_engine_batches_total", model="patient") - before < 8
    assert metrics("aquatint_engine_rows_total", model="patient") >= 8


def test_one_bad_request_does_not_fail_its_neighbours(server: TritonServer) -> None:
    def ask(columns: int) -> str:
        try:
            infer(server, "patient", x=rows(1, columns), bias=np.zeros((1, 1), np.float32))
        except InferenceServerException as error:
            return "failed" if "the engine failed" in error.message() else error.message()
        return "answered"

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, [3, 4, 3, 4, 3, 3])) == ["answered", "failed"] * 2 + ["answered"] * 2


def test_an_unknown_provider_is_named(tmp_path: Path) -> None:
    unknown = 'parameters { key: "execution_providers" value { string_value: "NopeExecutionProvider" } }\n'
    write_model(tmp_path / "odd", MINIMAL % 1 + unknown)
    with pytest.raises(EngineUnavailable, match="NopeExecutionProvider"):
        TritonServer(tmp_path, FREE_PORTS, verify=False).start()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "empty", MINIMAL % 1)
    (tmp_path / "empty" / "1" / "model.onnx").unlink()
    with pytest.raises(EngineUnavailable, match=r"model.onnx is missing"):
        TritonServer(tmp_path, FREE_PORTS, verify=False).start()
