from pathlib import Path

import yaml
from aquatint_pipelines.components import mini_checkpoint
from kfp import compiler


def test_the_pipeline_compiles_and_installs_nothing(tmp_path: Path) -> None:
    compiler.Compiler().compile(mini_checkpoint, str(tmp_path / "pipeline.yaml"))
    compiled = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    executors = compiled["deploymentSpec"]["executors"]
    assert set(executors) == {"exec-build-mini-dataset", "exec-train-mini", "exec-ship-mini"}
    assert all("pip install" not in str(executor) for executor in executors.values())
