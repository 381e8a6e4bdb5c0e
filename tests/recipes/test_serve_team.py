"""Serving a team: one command for each agent, and a team file that asks them."""

import pytest

from openrlhf_mlpo.cli import serve_team
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.team import load_team

TEAM = """
defaults: {engine: ray, engine_args: {actors: 8, max_model_len: 8192, enable_prefix_caching: true}}
agents:
  - {name: qwen, model: Qwen/Qwen2.5-7B-Instruct, sampling: {temperature: 0.7}}
  - {name: llama, model: meta-llama/Llama-3.1-8B-Instruct, system: Be brief.}
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "team.yaml").write_text(TEAM)

    def run(gpus: str) -> int:
        paths = ["--team", str(tmp_path / "team.yaml"), "--endpoints", str(tmp_path / "new" / "endpoints.yaml")]
        return serve_team.main([*paths, "--gpus", gpus, "--port", "9000"])

    return run


def test_commands_and_endpoints(command, tmp_path, capsys):
    assert command("0 2,3") == 0
    assert capsys.readouterr().out.splitlines() == [
        "CUDA_VISIBLE_DEVICES=0 vllm serve Qwen/Qwen2.5-7B-Instruct --host 127.0.0.1 --port 9000 --max-model-len 8192 "
        "--enable-prefix-caching --tensor-parallel-size 1",
        "CUDA_VISIBLE_DEVICES=2,3 vllm serve meta-llama/Llama-3.1-8B-Instruct --host 127.0.0.1 --port 9001 "
        "--max-model-len 8192 --enable-prefix-caching --tensor-parallel-size 2",
    ]
    served, team = load_team(tmp_path / "new" / "endpoints.yaml"), load_team(tmp_path / "team.yaml")
    assert [agent.engine_args["base_url"] for agent in served] == [f"http://127.0.0.1:{p}/v1" for p in (9000, 9001)]
    assert [(a.name, a.model, a.sampling, a.system) for a in served] == [
        (a.name, a.model, a.sampling, a.system) for a in team
    ]


@pytest.mark.parametrize(
    ("gpus", "message"), [("0", "1 groups for the 2 agents"), ("0 0", "GPU 0 is given to two agents")]
)
def test_mistakes_are_one_line(command, gpus, message):
    with pytest.raises(UserError, match=message):
        command(gpus)
