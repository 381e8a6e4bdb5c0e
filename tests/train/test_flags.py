"""What the flags, the leader, the pools and the reward file of a training command must be, before anything starts."""

import argparse
import runpy
import sys

import pytest

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf_mlpo.cli import train_mlpo_ray  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.train import checks, flags, inputs, seams  # noqa: E402
from tests.small import make_pool, make_rows, write_pool  # noqa: E402
from tests.tiny import CHAT_TEMPLATE, make_tiny_model  # noqa: E402


def stock_parser() -> argparse.ArgumentParser:
    """OpenRLHF's own parser with the MLPO flags, as train_mlpo_ray has it."""

    class Built(Exception):
        pass

    def capture(parser):
        raise Built(parser)

    seams.extend_parsers([flags.add_arguments, capture])
    argv, sys.argv = sys.argv, ["train_mlpo_ray"]
    try:
        runpy.run_module(seams.TRAIN_MODULE, run_name="__main__")
    except Built as built:
        return built.args[0]
    finally:
        sys.argv = argv
    raise AssertionError("train_ppo_ray no longer calls ArgumentParser.parse_args")


def test_parser_has_stock_and_mlpo_flags():
    parser = stock_parser()
    options = {option for action in parser._actions for option in action.option_strings}
    assert {"--actor.model_name_or_path", "--rollout.batch_size", "--mlpo.pool", "--mlpo.loss_norm"} <= options
    choices = {action.dest: action.choices for action in parser._actions}
    assert set(checks.ESTIMATORS) <= set(choices["algo.advantage.estimator"])
    assert set(checks.LOSS_NORMS) - {"constant"} == set(choices["actor.loss_agg_mode"])
    for flag in checks.IGNORED:  # under another name it would be taken, and ignored, again
        assert any(f"{name}.".startswith(f"{flag}.") for name in choices), flag


GOOD = (
    "--mlpo.pool {pool} --mlpo.template compact --actor.model_name_or_path {model} --reward.remote_url {reward} "
    "--rollout.n_samples_per_prompt 4 --rollout.max_new_tokens 32 --data.max_len 256 --vllm.num_engines 1 "
    "--rollout.batch_size 8 --train.batch_size 16"
)
BAD = [
    ("--mlpo.pool {tmp}/none", "no pool"),
    ("--mlpo.pool {pool},", "an empty path beside a comma"),
    ("--mlpo.pool {tmp}/a,b", "/a,b: OpenRLHF takes a comma for the end"),
    ("--mlpo.pool {tmp}/p@1", "/p@1: OpenRLHF takes what follows an @"),
    ("--mlpo.pool {tmp}/pool.parquet/", "with such an ending for a file"),
    ("--eval.dataset {tmp}/p@1", "--eval.dataset .*/p@1: OpenRLHF takes what"),
    ("--mlpo.team_size 13", "--mlpo.team_size 13.*holds 12 responses to a question, of 3 agents"),
    ("--mlpo.team_size 3-1", "--mlpo.team_size 3-1: write K or LOW-HIGH"),
    ("--mlpo.team_size -1", "--mlpo.team_size"),
    ("--mlpo.rounds 0", "--mlpo.rounds must be at least 1"),
    ("--mlpo.rounds 2", "--mlpo.rounds 2 needs --mlpo.team TEAM.yaml"),
    ("--mlpo.rounds 2 --mlpo.team nowhere.yaml", "--mlpo.team: team file nowhere.yaml"),
    ("--mlpo.rounds 2 --mlpo.team {team}", "has no agent 'ann', whose responses"),
    ("--mlpo.rounds 9 --mlpo.team {team}", "needs a group of each round in a batch; raise --rollout.batch_size"),
    ("--mlpo.rounds 2 --mlpo.team {team} --mlpo.solo_fraction 1", "leaves no prompt with a team"),
    ("--mlpo.rounds 2 --mlpo.team {team} --train.async_enable --train.partial_rollout_enable", "partial_rollout"),
    ("--mlpo.rounds 2 --mlpo.team {team} --mlpo.later_share 1", "--mlpo.later_share must be between 0 and 1"),
    ("--mlpo.rounds 2 --mlpo.team {team} --mlpo.team_failures 2", "--mlpo.team_failures must be between 0 and 1"),
    ("--mlpo.carry sampled", "have no effect without --mlpo.rounds 2"),
    ("--mlpo.team_failures 0.5", "have no effect without --mlpo.rounds 2"),
    ("--eval.dataset README.md", "--eval.dataset README.md: a file, where a pool is wanted"),
    ("--mlpo.solo_fraction 1.5", "--mlpo.solo_fraction"),
    ("--mlpo.solo_fraction nan", "--mlpo.solo_fraction"),
    ("--mlpo.drop_correct 0", "--mlpo.drop_correct"),
    ("--mlpo.log_samples -1", "--mlpo.log_samples must be 0 or more"),
    ("--mlpo.drop_correct 0.0001", "pool: no question is left of 12.*--mlpo.drop_correct"),
    ("--mlpo.template nowhere.yaml", "template 'nowhere.yaml'"),
    ("--mlpo.chat_template_kwargs [1]", "--mlpo.chat_template_kwargs .1.: not a JSON object"),
    ("--mlpo.chat_template_kwargs enable", "enable: not a JSON object"),
    ('--mlpo.chat_template_kwargs {{"thinkin":true}}', "does not read 'thinkin'"),
    ('--mlpo.chat_template_kwargs {{"tokenize":true}}', "does not read 'tokenize'"),
    ("--data.prompt_dataset x.jsonl", "--data.prompt_dataset has no effect with --mlpo.pool"),
    ("--data.apply_chat_template", "--data.apply_chat_template"),
    ("--data.input_key q", "--data.input_key has no effect with --mlpo.pool"),
    ("--data.label_key a", "--data.label_key has no effect with --mlpo.pool"),
    ("--data.prompt_split test", "--data.prompt_split test: .*pool has no such split, it has train"),
    ("--eval.dataset {pool} --eval.split dev", "--eval.split dev: .*pool has no such split"),
    ("--data.prompt_probs 0.5,0.5", "2 numbers for 1 pools"),
    ("--mlpo.pool {pool},{pool} --data.prompt_probs 1.0", "1 numbers for 2 pools"),
    ("--mlpo.pool {pool},{pool} --data.prompt_probs 0.9,0.9", "sum to 1"),
    ("--mlpo.pool {pool},{pool} --data.prompt_probs 1,0", "above 0"),  # OpenRLHF would draw for ever
    ("--mlpo.pool {pool},{pool} --data.prompt_probs half,half", "not numbers"),
    ("--data.max_samples 0", "--data.max_samples"),
    ("--data.disable_fast_tokenizer", "--data.disable_fast_tokenizer"),
    ("--train.agent_func_path agent.py", "--train.agent_func_path has no effect.*reward file"),
    ("--reward.model_name_or_path rm", "--reward.model_name_or_path has no effect"),
    ("--critic.adam.lr 1e-5", "--critic.adam.lr has no effect.*no value network"),
    ("--algo.advantage.estimator gae", "no value network"),
    ("--rollout.n_samples_per_prompt 1", "--rollout.n_samples_per_prompt"),
    ("--rollout.max_new_tokens 256", "leaves no room"),
    ("--rollout.max_new_tokens 0", "leaves no room"),
    ("--vllm.num_engines 0", "--vllm.num_engines"),
    ("--train.num_episodes 0", "--train.num_episodes"),
    ("--train.max_epochs 0", "--train.max_epochs"),
    ("--train.batch_size 64", "--train.batch_size 64: a rollout batch of 8 prompts x 4 samples never fills"),
    ("--train.batch_size 32 --rollout.vllm_generate_batch_size 4", "--train.batch_size 32: a rollout batch"),
    (
        "--rollout.batch_size 32 --train.batch_size 64 --mlpo.drop_correct 2",
        "12 questions kept of .* x 4 samples are 48",
    ),
    (
        "--data.max_samples 3 --mlpo.drop_correct 2",
        "--train.batch_size 16: the 3 questions kept of .*pool x 4 .* are 12",
    ),
    ("--data.max_len 36 --mlpo.drop_correct 2", "row 1: a leader prompt cannot fit.*leave out 12 .*--mlpo.drop_long"),
    ("--data.max_len 36 --mlpo.drop_correct 2 --mlpo.drop_long", "no question is left of 12; left out: 12 too long"),
    ("--reward.remote_url nothere.py", "nothere.py: no such file"),
    ("--reward.remote_url {reward},http://b", "a reward file stands alone"),
    ("--reward.remote_url http://a,localhost:5000", "'localhost:5000': neither a reward file"),
    ("--reward.remote_url {tmp}/empty.py", "empty.py: has no function reward_func"),
    ("--reward.remote_url {tmp}/broken.py", "broken.py: not a Python file"),
    ("--actor.model_name_or_path {tmp}/nomodel", "nomodel"),
    ("--actor.loss_agg_mode token-mean", "--mlpo.loss_norm"),
    ("--mlpo.loss_norm token-mean --actor.loss_agg_mode seq-mean-token-mean", "contradict"),
    ("--actor.policy_loss_type gspo", "gspo needs --mlpo.loss_norm"),
    ("--ds.lora.rank 8 --ds.zero_stage 3", "--ds.lora.rank"),
    ("--ds.load_in_4bit", "--ds.load_in_4bit"),
    ("--eval.dataset {tmp}/none", "no pool"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("flags")
    make_tiny_model(tmp / "model")
    for name in ("pool", "a,b", "p@1", "pool.parquet"):
        make_pool(tmp / name)
    (tmp / "reward.py").write_text("from somewhere import judge as reward_func\n")
    (tmp / "team.yaml").write_text("agents: [{name: zoe, model: 'tests/fake_players.py:ann', engine: callable}]\n")
    (tmp / "empty.py").write_text("def reward(queries): ...\n")
    (tmp / "broken.py").write_text("def reward_func(:\n")
    return {
        "tmp": tmp,
        "model": tmp / "model",
        "pool": tmp / "pool",
        "reward": tmp / "reward.py",
        "team": tmp / "team.yaml",
    }


@pytest.fixture(scope="module")
def parser():
    return stock_parser()


@pytest.fixture
def check(parser, places, monkeypatch):
    """A function that checks a command, of which `{pool}`, … are filled in, and returns what was parsed."""

    def check(command: str) -> argparse.Namespace:
        argv = command.format(**places).split()
        monkeypatch.setattr(sys, "argv", ["train_mlpo_ray", *argv])
        parsed = argparse.ArgumentParser.parse_args(parser, argv)
        if args := flags.check_arguments(parser, parsed):
            inputs.check_files(args, vars(parsed))
        return parsed

    return check


def test_good_arguments_pass_and_default_to_dr_grpo(check, places):
    parsed = vars(check(GOOD))
    assert parsed["algo.advantage.estimator"] == "dr_grpo"
    assert parsed["data.prompt_dataset"] == str(places["pool"])


@pytest.mark.parametrize(
    "extra",
    [
        "--reward.remote_url http://localhost:5000/get_reward",
        "--reward.remote_url http://one:5000,https://two:5000",
        "--mlpo.pool {pool},{pool} --data.prompt_probs 0.25,0.75 --train.batch_size 32 --rollout.batch_size 64",
        "--mlpo.pool {pool},{pool} --data.max_samples 20",
        "--eval.dataset {pool} --eval.steps 1",
        # A team's responses would not fit, but are never shown.
        "--mlpo.solo_fraction 1 --data.max_len 68",
        "--data.prompt_split train --mlpo.loss_norm token-mean --actor.loss_agg_mode token-mean",
    ],
)
def test_these_pass_too(extra, check):
    check(f"{GOOD} {extra}")


@pytest.mark.parametrize(("extra", "message"), BAD)
def test_bad_arguments_are_one_clear_line(extra, message, check):
    with pytest.raises(UserError, match=message) as error:
        check(f"{GOOD} {extra}")
    assert "\n" not in str(error.value)


def test_all_conflicts_come_in_one_message(check):
    with pytest.raises(UserError) as error:
        check(
            "--mlpo.pool {pool} --mlpo.solo_fraction 2 --data.input_key q --data.label_key a --critic.optim adam "
            "--train.batch_size 4096 --reward.remote_url nothere.py"
        )
    message = str(error.value)
    assert message.startswith("10 mistakes: (1) ")
    for flag in (
        *("data.input_key", "data.label_key", "critic.optim", "actor.model_name_or_path", "vllm.num_engines"),
        *("rollout.n_samples_per_prompt", "train.batch_size", "mlpo.solo_fraction", "rollout.max_new_tokens"),
        "reward.remote_url nothere.py",
    ):
        assert f"--{flag}" in message
    assert "\n" not in message


def test_mlpo_flag_without_pool_is_refused(check):
    with pytest.raises(UserError, match="--mlpo.pool is empty: name a pool"):
        check("--mlpo.pool= --mlpo.team_size 2")
    with pytest.raises(UserError, match="--mlpo.team_size has no effect without --mlpo.pool"):
        check("--mlpo.team_size 2")
    with pytest.raises(UserError, match="--mlpo.drop_long, --mlpo.team_size have no effect without --mlpo.pool"):
        check("--mlpo.team_size 2 --mlpo.drop_long")


def incomplete(edit) -> list[dict]:
    rows = make_rows(6)
    edit(rows[4])
    return rows


INCOMPLETE = [
    (lambda row: row.update(responses=None), "row 5: responses is null"),
    (lambda row: row.update(answer=None), "row 5: answer is null"),
    (lambda row: row.update(question=None), "row 5: question is null"),
    (lambda row: row["responses"].clear(), "row 5 has no response of ann .1 such"),
    (lambda row: row["responses"].__delitem__(slice(4, 8)), "row 5 has no response of bob .1 such"),
    (lambda row: row["responses"][7].update(agent="eve"), "row 1 has no response of eve .5 such"),
    (lambda row: row["responses"][7].update(text=None), "row 5: a response with text is null"),
    (lambda row: row["responses"][0].update(correct=None), "row 5: a response with correct is null"),
]


@pytest.mark.parametrize(("edit", "message"), INCOMPLETE)
@pytest.mark.parametrize("flag", ["--mlpo.pool", "--eval.dataset"])
def test_incomplete_rows_are_found(edit, message, flag, check, tmp_path):
    write_pool(tmp_path / "pool", incomplete(edit))
    with pytest.raises(UserError, match=f"{tmp_path}/pool: {message}"):
        check(f"{GOOD} {flag} {tmp_path}/pool")


def test_empty_pool_and_wrong_columns(check, tmp_path):
    make_pool(tmp_path / "empty", n=0)
    with pytest.raises(UserError, match="no questions"):
        check(f"{GOOD} --mlpo.pool {tmp_path}/empty")
    make_pool(tmp_path / "wrong", rename={"answer": "solution"})
    with pytest.raises(UserError, match="column '?answer'?"):
        check(f"{GOOD} --mlpo.pool {tmp_path}/wrong")
    make_pool(tmp_path / "swapped", rename={"choices": "responses", "responses": "choices"})
    with pytest.raises(UserError, match="'responses' must be a list of records that have agent, text"):
        check(f"{GOOD} --mlpo.pool {tmp_path}/swapped")


def test_long_questions_are_an_error_or_left_out(check, tmp_path):
    rows = make_rows(8)
    for number in (2, 5):
        rows[number]["question"] = "not " * 300 + "True"
    write_pool(tmp_path / "pool", rows)
    command = f"{GOOD} --mlpo.pool {tmp_path}/pool --mlpo.drop_correct 2"
    with pytest.raises(UserError, match="row 3: .*cannot fit.*or leave out 2 such rows with --mlpo.drop_long"):
        check(command)
    check(f"{command} --mlpo.drop_long")


def leader(path, template: str):
    """The tiny model with another chat template."""
    from transformers import AutoTokenizer

    make_tiny_model(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return path


REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    "{{ messages[-1]['content'] }}"
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ '<|im_start|> ' + m['role'] }}{% endfor %}", "leaves the question out"),
        ("{{ messages[0]['content'][0]['text'] }}", "leaves the question out"),
        ("{{ raise_exception('tools only') }}", r"refuses the prompt \(tools only\)"),
        (REFUSES_SYSTEM, r"refuses the prompt \(No system!\): it has no system role"),
        ("{{ messages[-1]['content'] }}", "leaves the system text out"),
    ],
)
def test_a_chat_template_that_cannot_show_a_prompt_is_one_line(template, message, check, tmp_path):
    (tmp_path / "template.yaml").write_text("system: You lead a team.\n")
    model = leader(tmp_path / "model", template)
    with pytest.raises(UserError, match=message) as error:
        check(f"{GOOD} --actor.model_name_or_path {model} --mlpo.template {tmp_path}/template.yaml")
    assert str(model) in str(error.value) and "\n" not in str(error.value)


def test_a_chat_template_that_prints_the_date_says_so_and_is_pinned(check, tmp_path, capsys):
    dated = "{% if not day is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}{{ day + ' . ' }}"
    model = leader(tmp_path / "model", dated + CHAT_TEMPLATE)
    check(f"{GOOD} --actor.model_name_or_path {model}")
    assert "prints the date; all prompts say 26 Jul 2024" in capsys.readouterr().err
    check(f'{GOOD} --actor.model_name_or_path {model} --mlpo.chat_template_kwargs {{{{"day":"1"}}}}')
    assert "date" not in capsys.readouterr().err


def test_cli_ends_with_one_line_and_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_mlpo_ray", "--mlpo.solo_fraction", "0.5"])
    with pytest.raises(SystemExit) as stop:
        run_cli(train_mlpo_ray.main)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: --mlpo.solo_fraction has no effect")


def test_prompts_are_shared_where_micro_batches_hold_groups(check):
    shared = [
        vars(check(f"{GOOD} {extra}"))["mlpo.share_prompt"]
        for extra in ("", "--train.micro_batch_size 8", "--train.micro_batch_size 8 --mlpo.share_prompt off")
    ]
    assert shared == ["off", "on", "off"]
    with pytest.raises(UserError, match="--mlpo.share_prompt on: .*raise --train.micro_batch_size"):
        check(f"{GOOD} --mlpo.share_prompt on")
