"""Debian's Prometheus on a free port, scraping what a test names every second."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from aquatint.client import readiness
from tests.e2e.conftest import eventually
from tests.programs import program
from tests.seaweed import free_ports


class Prometheus:
    """Runs while its block does."""

    def __init__(self, folder: Path, targets: dict[str, str]) -> None:
        self._folder = folder
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [url.removeprefix("http://").partition("/")[0]]}]}
            for name, url in targets.items()
        ]
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self._folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=warn",
            ]
        )
        assert eventually(lambda: readiness.is_ready(f"{self.url}/-/ready"), within_s=30.0)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; fails where Prometheus refuses it."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return list(answer["data"]["result"])
