"""A real S3 server on loopback: SeaweedFS from its PyPI wheel."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.client import Config

ACCESS_KEY, SECRET_KEY = "aquatint-test", "not-a-secret"
_READY_WITHIN_S = 60.0


def free_ports(count: int) -> list[int]:
    """Find ports that nobody uses now; SeaweedFS also takes each port + 10000 for gRPC."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            if port + 10_000 < 65_536:
                found.append(port)
        return found


@dataclass
class Seaweed:
    """The server; it can be stopped to act out an outage."""

    folder: Path
    ports: list[int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[3]}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        master, volume, filer, s3 = self.ports
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        config.write_text(json.dumps({"identities": [identity]}))
        arguments = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": self.folder,
            "master.port": master,
            "volume.port": volume,
            "filer.port": filer,
            "s3.port": s3,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": config,
            "master.volumeSizeLimitMB": 64,
            "volume.max": 20,
        }
        flags = [f"-{name}={value}" for name, value in arguments.items()]
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "weed", "server", *flags, "-filer", "-s3"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.endpoint_url}/status", timeout=1.0).is_success:
                    return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "weed.log").read_text()[-2000:])

    def stop(self) -> None:
        """Kill it: an orderly stop takes 20 s."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Let nothing answer until the block ends."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def client(self) -> Any:
        """Make a boto3 client with the right credentials."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run a server, and leave nothing of it behind."""
    server = Seaweed(folder, free_ports(4))
    try:
        server.start()
        yield server
    finally:
        server.stop()
