"""The server as a program: it ends in order, and its log tells no key."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import yaml

from tests.conftest import ROOT

FAKE = ROOT / "tests" / "fake_players.py"
pytestmark = pytest.mark.slow  # imports of a new process


def test_sigterm_finishes_what_is_under_way_and_the_key_is_in_no_log(tmp_path):
    entries = [{"name": name, "engine": "callable", "model": f"{FAKE}:{name}"} for name in ("ann", "bob")]
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": entries}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *[sys.executable, "-m", "openrlhf_mlpo.cli.serve", "--leader", f"callable:{FAKE}:boss", "--port", str(port)],
        *["--team", str(tmp_path / "team.yaml"), "--template", "compact", "--rounds", "1", "--api_key_env", "SERVED"],
    ]
    env = {**os.environ, "SERVED": "sk-never-shown", "FAKE_SLEEP": "0.7"}
    log = tmp_path / "log"
    url, headers = f"http://127.0.0.1:{port}", {"authorization": "Bearer sk-never-shown"}
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.time() + 60
        while time.time() < deadline:
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        body = {"model": "leader-team", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        replies = []

        def ask():
            replies.append(httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.4)  # the agents are answering
        server.send_signal(signal.SIGTERM)
        asking.join(30)
        assert replies[0].status_code == 200 and replies[0].json()["choices"]
        assert server.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")
    finally:
        server.kill()
    assert "sk-never-shown" not in log.read_text() and f"127.0.0.1:{port}" in log.read_text()
    assert "Traceback" not in log.read_text()
