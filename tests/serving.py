"""Servers for tests and benchmarks: an application in a thread, and `cli.serve` as a program."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from tests.conftest import ROOT


@contextmanager
def in_thread(app) -> Iterator[str]:
    """The address of an application that runs in this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def as_program(log: Path, *flags: str, env: dict | None = None) -> Iterator[tuple[subprocess.Popen, str]]:
    """`openrlhf_mlpo.cli.serve` with these flags, and its address; it starts meanwhile, see `wait_for`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openrlhf_mlpo.cli.serve", *flags, "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            server.kill()


def wait_for(server: subprocess.Popen, url: str, log: Path, seconds: float) -> None:
    """Until the program answers; fails with the end of its log when it ends first, or does not in time."""
    deadline = time.time() + seconds
    while True:
        assert server.poll() is None and time.time() < deadline, log.read_text()[-3000:]
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
