"""The server as a program: it ends in order, and its log tells no key."""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.serving import as_program, wait_for

FAKE = ROOT / "tests" / "fake_players.py"
pytestmark = pytest.mark.slow  # imports of a new process


def test_sigterm_finishes_what_is_under_way_and_the_key_is_in_no_log(tmp_path):
    entries = [{"name": name, "engine": "callable", "model": f"{FAKE}:{name}"} for name in ("ann", "bob")]
    (tmp_path / "team.yaml").write_text(yaml.safe_dump({"agents": entries}))
    flags = ["--leader", f"callable:{FAKE}:boss", "--team", str(tmp_path / "team.yaml"), "--template", "compact"]
    flags += ["--rounds", "1", "--api_key_env", "SERVED"]
    env = {**os.environ, "SERVED": "sk-never-shown", "FAKE_SLEEP": "0.7"}
    log, headers = tmp_path / "log", {"authorization": "Bearer sk-never-shown"}
    with as_program(log, *flags, env=env) as (server, url):
        wait_for(server, url, log, 60)
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
    assert "sk-never-shown" not in log.read_text() and url in log.read_text()
    assert "Traceback" not in log.read_text()
