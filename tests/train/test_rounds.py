"""Rounds inside training: OpenRLHF's own SamplesGenerator over a stub engine, real Ray, real prompts, a stub team."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

import ray  # noqa: E402
import torch  # noqa: E402
from openrlhf.trainer import ppo_trainer_async  # noqa: E402
from openrlhf.trainer.ppo_trainer import BasePPOTrainer  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402

from openrlhf_mlpo.engines import Completion, request_seed  # noqa: E402
from openrlhf_mlpo.errors import UserError, run_cli  # noqa: E402
from openrlhf_mlpo.pool.format import open_pool  # noqa: E402
from openrlhf_mlpo.prompts.templates import load_template  # noqa: E402
from openrlhf_mlpo.rounds import Player  # noqa: E402
from openrlhf_mlpo.train.dataset import TeamPromptDataset  # noqa: E402
from openrlhf_mlpo.train.metrics import leader_metrics  # noqa: E402
from openrlhf_mlpo.train.rounds import LaterRounds, round_counts  # noqa: E402
from openrlhf_mlpo.train.trainer import (  # noqa: E402
    MLPOGenerateSamplesActor,
    MLPOSamplesGenerator,
    MLPOTrainer,
    ResumesEpisode,
)
from openrlhf_mlpo.train.training_team import TrainingTeam  # noqa: E402
from tests.small import AGENTS, make_pool  # noqa: E402
from tests.tiny import make_tiny_model  # noqa: E402

pytestmark = [pytest.mark.stack, pytest.mark.slow]  # starts Ray

GROUP, BATCH, QUESTIONS = 4, 6, 24


class StubEngine:
    """Answers as a leader of even skill; what it says depends on prompt and sample alone."""

    def get_num_unfinished_requests(self):
        return 0

    def generate_responses(self, *, prompt, label, hf_tokenizer, num_samples, **_):
        gold = json.loads(label)["answer"]
        wrong = "False" if gold == "True" else "True"
        responses = []
        for sample in range(num_samples):
            answer = gold if (len(prompt) + sample) % 2 else wrong
            text = f"<think> {'and ' * sample}</think> <answer> {answer} </answer>"
            before = hf_tokenizer(prompt, add_special_tokens=False)["input_ids"]
            tokens = [*before, *hf_tokenizer(text, add_special_tokens=False)["input_ids"], hf_tokenizer.eos_token_id]
            score = float(answer == gold)
            responses.append(
                {"observation_tokens": tokens, "action_ranges": [(len(before), len(tokens))], "reward": score,
                 "scores": score, "extra_logs": {"accuracy": score}, "rollout_log_probs": None, "prompt": prompt,
                 "label": label}
            )  # fmt: skip
        return responses


class SureEngine(StubEngine):
    """Always right where the answer is "True"."""

    def generate_responses(self, *, label, **more):
        responses = super().generate_responses(label=label, **more)
        if json.loads(label)["answer"] == "True":
            for response in responses:
                response.update(reward=1.0, scores=1.0, extra_logs={"accuracy": 1.0})
        return responses


@pytest.fixture(scope="module")
def engine():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.remote(StubEngine).remote()
    ray.shutdown()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool") / "pool", n=QUESTIONS)


def stub_team(fail: str = "", max_failures: float = 0.1, asked: list | None = None) -> TrainingTeam:
    """Agents that repeat the leader's last answer; the one named `fail` cannot be reached."""

    def player(name):
        def generate(prompts, n, seed):
            if name == fail:
                raise UserError("http://nowhere did not answer")
            texts = [prompt[-1]["content"].rpartition("leader :")[2].strip() for prompt in prompts]
            if asked is not None:
                asked.extend((name, prompt[-1]["content"], seed) for prompt in prompts)
            return [[Completion(f"{name} now says <answer> {t.split()[-2]} </answer>")] for t in texts], 0.01

        return Player(name, generate)

    template = load_template("compact")
    return TrainingTeam({name: player(name) for name in AGENTS}, template, seed=0, max_failures=max_failures)


def generator(engine, tokenizer, pool, rounds, team=None, state=None, **settings) -> MLPOSamplesGenerator:
    """The generator as a trainer builds it, on a loader in the order of the pool; `state`: that of a checkpoint."""
    mlpo = {
        "pool": str(pool), "template": "compact", "team_size": "0", "balance_draws": False, "drop_long": False,
        "chat_template_kwargs": "", "solo_fraction": 0.0, "show": "full",
        "drop_correct": 2.0, "rounds": rounds, "later_share": 0.5, "carry": "balanced", **settings.pop("mlpo", {}),
    }  # fmt: skip
    args = SimpleNamespace(
        mlpo=SimpleNamespace(**mlpo),
        data=SimpleNamespace(max_len=448),
        rollout=SimpleNamespace(
            max_new_tokens=64,
            batch_size=settings.get("batch", BATCH),
            n_samples_per_prompt=GROUP,
            vllm_generate_batch_size=None,
        ),
        train=SimpleNamespace(seed=3, num_episodes=settings.get("episodes", 1)),
        eval=SimpleNamespace(dataset=str(pool)),
        vllm=SimpleNamespace(enable_sleep=False),
        algo=SimpleNamespace(
            dynamic_filtering_enable=settings.get("filtering", False),
            dynamic_filtering_range=(0.0, 1.0),
            advantage=SimpleNamespace(is_correction_level="off"),
        ),
    )
    strategy = SimpleNamespace(args=args, is_rank_0=lambda: False)
    rows = open_pool(pool).select(range(settings.get("questions", QUESTIONS)))
    dataset = TeamPromptDataset(rows, tokenizer, strategy)
    loader = StatefulDataLoader(dataset, 1, collate_fn=dataset.collate_fn)
    samples = MLPOSamplesGenerator(strategy, loader, None, tokenizer, [engine])
    samples.later_rounds.team = team or stub_team()
    if state:
        samples.prompts_consumed = state["total_consumed_prompts"]
        samples.resumable(loader).load_state_dict(state["data_loader_state_dict"])
    return samples


def fit(samples: MLPOSamplesGenerator, start: int = 0) -> list[tuple[list[str], dict]]:
    """(prompts, the state in a checkpoint) of each batch, in the loop that OpenRLHF's trainers have."""
    result, loader = [], samples.resumable(samples.prompts_dataloader)
    for episode in range(start, samples.args.train.num_episodes):
        exhausted = False
        while not exhausted:
            experiences, _, _, exhausted = samples.generate_samples(max_len=448, max_new_tokens=64)
            if experiences:
                consumed = {"episode": episode, "total_consumed_prompts": samples.prompts_consumed}
                state = consumed | {"data_loader_state_dict": loader.state_dict()}
                result.append((seen(groups_of(experiences)), state))
    return result


def groups_of(experiences):
    return [experiences[i : i + GROUP] for i in range(0, len(experiences), GROUP)]


def batches(samples) -> list[tuple[list, int]]:
    """All batches of one pass: (groups, prompts consumed)."""
    result = []
    while True:
        experiences, _, consumed, exhausted = samples.generate_samples(max_len=448, max_new_tokens=64)
        if experiences:
            result.append((groups_of(experiences), consumed))
        if exhausted:
            return result


def text_of(tokenizer, experience) -> str:
    """A leader output."""
    return tokenizer.decode(experience.sequences[0][1:][experience.action_mask[0].bool()], skip_special_tokens=True)


def seen(groups) -> list[str]:
    return sorted(group[0].prompts[0] for group in groups)


@pytest.mark.parametrize(
    ("groups", "rounds", "share", "counts"),
    [
        (32, 1, 0.5, [32]),
        (32, 2, 0.4, [19, 13]),
        (32, 3, 0.5, [16, 8, 8]),
        (7, 3, 0.5, [3, 2, 2]),
        (3, 3, 0, [1, 1, 1]),
    ],
)
def test_shares_by_round_add_up(groups, rounds, share, counts):
    assert round_counts(groups, rounds, share) == counts and sum(counts) == groups


@pytest.mark.parametrize(
    ("rounds", "generated", "steps"),
    [(1, None, 100), (2, None, 200), (3, None, 200), (2, 7, 100 * 7 // 3)],
)
@pytest.mark.parametrize("trainer", [MLPOTrainer, MLPOGenerateSamplesActor])
def test_the_schedule_counts_the_steps_of_all_rounds(trainer, rounds, generated, steps):
    """Without rounds a batch of 8 prompts would be 8 groups; with them 4 prompts make 8 groups."""
    loop = object.__new__(trainer)
    loop.max_steps = 100
    loop.args = SimpleNamespace(
        rollout=SimpleNamespace(batch_size=8, vllm_generate_batch_size=generated),
        mlpo=SimpleNamespace(rounds=rounds, later_share=0.5),
    )
    assert loop.get_max_steps() == steps


@ray.remote
class Inner:
    def fit(self):
        raise UserError("--mlpo.team: agent bob; his server is gone")

    def wait_for_samples(self):
        time.sleep(300)


@ray.remote
class Outer:
    """As OpenRLHF's asynchronous trainer waits for the two actors that train and generate."""

    def fit(self):
        sides = [Inner.remote(), Inner.remote()]
        return ray.get([sides[0].wait_for_samples.remote(), sides[1].fit.remote()])


@pytest.mark.parametrize("actor", [Inner, Outer])
def test_what_an_actor_refuses_is_one_line_in_the_driver(engine, actor, capsys):
    with pytest.raises(SystemExit) as end:
        run_cli(lambda: ray.get(actor.remote().fit.remote()))
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --mlpo.team: agent bob; his server is gone\n"


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_groups_sizes_and_consumed_prompts(engine, tokenizer, pool, rounds):
    """Batches of equal size: rounds that have nothing to go on from yet, or no more, leave their place to round 0."""
    counts = round_counts(BATCH, rounds, 0.5)
    all_batches = batches(generator(engine, tokenizer, pool, rounds))
    left = QUESTIONS
    for number, (groups, consumed) in enumerate(all_batches):
        later = {t: counts[t] for t in range(1, rounds) if number >= t}
        assert consumed == min(BATCH - sum(later.values()), left), "every question once in round 0"
        left -= consumed
        for group in groups:
            assert len(group) == GROUP and len({e.prompts[0] for e in group} | {e.labels[0] for e in group}) == 2
        by_round = Counter(json.loads(group[0].labels[0]).get("round", 0) for group in groups)
        assert by_round == {0: consumed, **later}
    assert left == 0


def test_the_leader_answers_all_rounds_of_a_batch_at_once(engine, tokenizer, pool, monkeypatch):
    """Every batch is one call of OpenRLHF's generator, and the team has begun before the next one is asked for."""
    calls, asked = [], []
    samples = generator(engine, tokenizer, pool, 3, stub_team(asked=asked))
    dispatch = samples._dispatch_prompts_to_vllm
    monkeypatch.setattr(
        samples,
        "_dispatch_prompts_to_vllm",
        lambda prompts, *rest, **more: calls.append(len(prompts)) or dispatch(prompts, *rest, **more),
    )
    samples.generate_samples(max_len=448, max_new_tokens=64)
    wait = time.time() + 20
    while len(asked) < 2 * len(AGENTS) and time.time() < wait:
        time.sleep(0.01)
    assert len(asked) == 2 * len(AGENTS)
    samples.generate_samples(max_len=448, max_new_tokens=64)
    assert calls == [BATCH, BATCH]


class Call:
    """Stands for a method of a Ray actor, called in this process."""

    def __init__(self, call):
        self.remote = call


def test_asynchronously_the_team_is_waited_for_before_vllm_is_locked(engine, tokenizer, pool, monkeypatch):
    """In OpenRLHF's own loop: an agent that answers when vLLM is free for new weights only is no deadlock."""
    free, team = threading.Event(), stub_team()
    free.set()

    def slowly(answer, *asked):
        time.sleep(0.2)
        assert free.wait(10), "vLLM is locked while the team revises"
        return answer(*asked)

    for player in team.players.values():
        player.generate = partial(slowly, player.generate)
    samples = generator(engine, tokenizer, pool, 2, team)
    samples.args.eval.steps = float("inf")
    loop = object.__new__(MLPOGenerateSamplesActor)
    vars(loop).update(
        args=samples.args, samples_generator=samples, prompts_dataloader=samples.resumable(samples.prompts_dataloader),
        eval_dataloader=None, generate_kwargs={"max_len": 448, "max_new_tokens": 64}, _partial_rollout=False,
        vllm_lock=SimpleNamespace(acquire=Call(free.clear), release=Call(free.set)),
        rollout_queue=queue.Queue(), rollout_slots=queue.Queue(),
    )  # fmt: skip
    for step in range(2 * QUESTIONS):
        loop.rollout_slots.put(step)
    monkeypatch.setattr(ppo_trainer_async, "ray", SimpleNamespace(get=lambda value: value))
    loop.fit(0, 0)
    *rollouts, done = loop.rollout_queue.queue
    assert done == "done" and len(rollouts) > 3
    assert {json.loads(e.labels[0])["round"] for experiences, *_ in rollouts for e in experiences} == {0, 1}


def test_agents_have_the_seeds_of_inference_and_batches_one_order(engine, tokenizer, pool):
    """Each round has a seed of its own, and the order of groups does not depend on who answered first."""
    runs = []
    for _ in range(2):
        asked: list = []
        all_batches = batches(generator(engine, tokenizer, pool, 3, stub_team(asked=asked)))
        runs.append([group[0].prompts[0] for groups, _ in all_batches for group in groups])
        seeds = {(name, seed) for name, _, seed in asked}
        assert seeds == {(name, request_seed(0, name, t)) for name in AGENTS for t in "12"}
    assert runs[0] == runs[1] != sorted(runs[0])


@pytest.mark.parametrize("episodes", [1, 2])
def test_nobody_is_asked_for_a_batch_that_does_not_come(engine, tokenizer, pool, episodes):
    """What goes on at the end of an episode waits for the next one, and of the last there is nothing."""
    asked: list = []
    samples = generator(engine, tokenizer, pool, 2, stub_team(asked=asked), episodes=episodes)
    later = [
        json.loads(g[0].labels[0]).get("round", 0)
        for _ in range(episodes)
        for groups, _ in batches(samples)
        for g in groups
    ]
    assert len(later) == QUESTIONS * episodes + sum(later) and len(asked) == len(AGENTS) * sum(later)
    assert samples.later_rounds.carried == []


def test_one_round_is_as_before(engine, tokenizer, pool):
    """The same prompts, labels and tokens as OpenRLHF's own generator gives, and no key of rounds in a label."""
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    ours = generator(engine, tokenizer, pool, 1)
    stock = SamplesGenerator(ours.strategy, ours.prompts_dataloader, None, tokenizer, [engine])
    for (mine, _), (theirs, _) in zip(batches(ours), batches(stock), strict=True):
        assert seen(mine) == seen(theirs)
        assert sorted(e.labels[0] for g in mine for e in g) == sorted(e.labels[0] for g in theirs for e in g)
        assert not any("round" in json.loads(group[0].labels[0]) for group in mine)


def test_a_later_prompt_is_that_of_inference(engine, tokenizer, pool):
    """What the leader is shown: one of its own outputs to the group's prompt, and each agent's own revision."""
    asked: list = []
    (first_groups, _), (groups, _), *_ = batches(generator(engine, tokenizer, pool, 2, stub_team(asked=asked)))
    first = {json.loads(g[0].labels[0])["id"]: g for g in first_groups}
    later = [g for g in groups if json.loads(g[0].labels[0])["round"]]
    assert later
    for group in later:
        label, prompt = json.loads(group[0].labels[0]), group[0].prompts[0]
        before = first[label["id"]]
        outputs = {text_of(tokenizer, e): e for e in before}
        shown = [
            text
            for text in outputs
            if text.replace("<", "[").replace(">", "]").strip() in prompt.replace("<", "[").replace(">", "]")
        ]
        assert len(shown) == 1
        assert label["last_correct"] == bool(outputs[shown[0]].scores[0])
        assert all(f"{name} now says" in prompt for name in AGENTS)
        assert label["agents_right"] == [int(label["last_correct"])] * len(AGENTS), "this team repeats the leader"
    said = {name: [content for who, content, _ in asked if who == name] for name in AGENTS}
    assert all(f"{name} says" in content for name in AGENTS for content in said[name]), "each its own last response"


def test_thinking_that_the_prompt_opened_goes_on_with_the_output(tokenizer):
    before, output = tokenizer("is <think>")["input_ids"], tokenizer("yes </think> no")["input_ids"]
    tokens = torch.tensor([[*before, *output, tokenizer.eos_token_id]])
    mask = (torch.arange(tokens.shape[1] - 1) >= len(before) - 1)[None]
    later = LaterRounds(None, None, tokenizer)
    for prompt, text in (("is <think> ", "<think> yes </think> no"), ("is", "yes </think> no")):
        assert later._text(SimpleNamespace(prompts=[prompt], sequences=tokens, action_mask=mask)) == text


@pytest.mark.parametrize(
    ("carry", "low", "high"), [("balanced", 0.2, 0.8), ("wrong", -0.01, 0.01), ("sampled", 0.2, 0.8)]
)
def test_which_output_goes_on(engine, tokenizer, pool, carry, low, high):
    """Half of the stub's outputs are right in every group: a fair coin decides, or a wrong one goes on."""
    labels = [
        json.loads(group[0].labels[0])
        for groups, _ in batches(generator(engine, tokenizer, pool, 2, mlpo={"later_share": 0.5, "carry": carry}))
        for group in groups
    ]
    states = [label["last_correct"] for label in labels if label["round"]]
    assert low < sum(states) / len(states) < high


def test_solo_prompts_stay_in_round_0(engine, tokenizer, pool):
    all_batches = batches(generator(engine, tokenizer, pool, 2, mlpo={"solo_fraction": 0.5}))
    labels = [json.loads(group[0].labels[0]) for groups, _ in all_batches for group in groups]
    solo = [label for label in labels if "agents_correct" not in label]
    assert solo and not any("round" in label for label in solo)
    assert sum(label.get("round", 0) for label in labels) > 0
    alone = batches(generator(engine, tokenizer, pool, 2, mlpo={"solo_fraction": 1.0}))
    assert sum(len(groups) for groups, _ in alone) == QUESTIONS


def test_filtered_groups_of_all_rounds_are_replaced_and_do_not_go_on(engine, tokenizer, pool):
    """A leader that is always right where "True" is: prompts of round 0 take the place of such groups."""
    sure = ray.remote(SureEngine).remote()
    all_batches = batches(generator(sure, tokenizer, pool, 2, filtering=True))
    assert sum(consumed for _, consumed in all_batches) == QUESTIONS
    assert [len(groups) for groups, _ in all_batches[:2]] == [BATCH, BATCH]
    labels = [json.loads(group[0].labels[0]) for groups, _ in all_batches for group in groups]
    assert {label["answer"] for label in labels} == {"False"} and any(label["round"] for label in labels)


@pytest.mark.parametrize("questions", [QUESTIONS, QUESTIONS - 2])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_resumed_it_sees_the_same_prompts_and_states(engine, tokenizer, pool, monkeypatch, rounds, questions):
    """From every checkpoint of two episodes, that at the end of one included, whose last batch may be short."""
    more = {"episodes": 2, "questions": questions}
    whole = fit(generator(engine, tokenizer, pool, rounds, **more))
    prompts = [batch for batch, _ in whole]
    assert whole[-1][1]["total_consumed_prompts"] == 2 * questions
    assert len({prompt for batch in prompts for prompt in batch}) > 1.5 * questions, "another episode draws again"
    for number, (_, state) in enumerate(whole, 1):
        monkeypatch.setattr(BasePPOTrainer, "init_checkpoint_states", lambda self: dict(state))  # noqa: B023
        episode = object.__new__(ResumesEpisode).init_checkpoint_states()["episode"]
        resumed = fit(generator(engine, tokenizer, pool, rounds, state=state, **more), episode)
        assert [batch for batch, _ in resumed] == prompts[number:]


def test_a_checkpoint_made_without_rounds_is_taken_up(engine, tokenizer, pool):
    (_, state), *_ = fit(generator(engine, tokenizer, pool, 1))
    all_batches = batches(generator(engine, tokenizer, pool, 2, state=state))
    assert [consumed for _, consumed in all_batches] == [6, 3, 3, 3, 3]


def test_resumed_with_smaller_batches_no_question_is_lost(engine, tokenizer, pool):
    (_, state), *_ = fit(generator(engine, tokenizer, pool, 2))
    all_batches = batches(generator(engine, tokenizer, pool, 2, state=state, batch=2))
    assert [consumed for _, consumed in all_batches] == [1] * 18


def test_the_end_of_an_episode_does_not_fill_the_next_rounds_with_one_question(engine, tokenizer, pool):
    samples = generator(engine, tokenizer, pool, 2, episodes=2, questions=22)
    (*_, (_, consumed)), ((groups, _), *_) = batches(samples), batches(samples)
    labels = [json.loads(group[0].labels[0]) for group in groups]
    assert consumed == 1 and sum(label["round"] for label in labels) == 1 and len(groups) == BATCH


def test_evaluation_is_one_round(engine, tokenizer, pool):
    samples = generator(engine, tokenizer, pool, 2, stub_team(fail="ann", max_failures=0.0))
    samples.eval_dataloader = samples.prompts_dataloader
    experiences = samples.generate_eval_samples(max_len=448, max_new_tokens=64, n_samples_per_prompt=GROUP)
    assert len(experiences) == QUESTIONS * GROUP


def test_failures_are_counted_and_stop_the_run_when_there_are_too_many(engine, tokenizer, pool):
    (groups, _), *_ = batches(generator(engine, tokenizer, pool, 2, stub_team(fail="bob", max_failures=0.5)))
    later = [group[0] for group in groups if json.loads(group[0].labels[0])["round"]]
    assert all(json.loads(e.labels[0])["agents_failed"] == 1 and "(no answer)" in e.prompts[0] for e in later)
    with pytest.raises(UserError, match="9 revisions failed.*agent bob; http://nowhere did not answer"):
        batches(generator(engine, tokenizer, pool, 2, stub_team(fail="bob")))


def test_metrics_by_round():
    def label(t, last, before, now):
        about = {"answer": "x", "agents_correct": sum(now), "majority": None, "round": t}
        if t:
            about |= {"last_correct": last, "agents_right_before": before, "agents_right": now, "agents_failed": 1}
        return json.dumps(about)

    metrics = leader_metrics(
        [
            (label(0, None, [], []), 1.0, None),
            (label(1, False, [0, 0, 1], [1, 0, 0]), 1.0, None),
            (label(1, True, [1, 1, 1], [1, 1, 0]), 0.0, None),
            (json.dumps({"answer": "x"}), 1.0, None),
        ]
    )
    assert metrics["mlpo/accuracy_round_0"] == 1.0 and metrics["mlpo/accuracy_round_1"] == 0.5
    assert metrics["mlpo/leader_fixed_round_1"] == 1.0 and metrics["mlpo/leader_broken_round_1"] == 1.0
    assert metrics["mlpo/agents_fixed_round_1"] == 0.5 and metrics["mlpo/agents_broken_round_1"] == 0.5
    assert metrics["mlpo/share_round_1"] == pytest.approx(2 / 3)
    assert metrics["mlpo/agents_failed"] == pytest.approx(1 / 3)
