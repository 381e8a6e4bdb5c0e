"""The players of an evaluation from its command line: agents of the team file, leaders, leaders that are sampled."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.play.calls import Models
from eval.play.methods import Config
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.renderer import MIN_RESPONSE_TOKENS, PromptRenderer
from openrlhf_mlpo.prompts.templates import load_template
from openrlhf_mlpo.rounds import Player

# Longest prompt when a model's configuration names no context length.
FALLBACK_CONTEXT = 32768


class Players:
    """`team`, `leaders` and `samplers` (leaders at `--vote_temperature`), over one set of engines."""

    def __init__(
        self, args: argparse.Namespace, config: Config, agents: Sequence[Any], leaders: Mapping[str, str], store: Path
    ):
        from openrlhf_mlpo.engines import Sampling
        from openrlhf_mlpo.team import Agent

        self.args, self.config = args, config
        self.models = Models(store, max_engines=args.max_engines, batch=args.batch)
        self.team = [self._agent(agent, Sampling) for agent in agents]
        self.leaders: list[Player] = []
        self.samplers: dict[str, Player] = {}
        for name, model in leaders.items():
            engine, model = split_engine(model)
            settings = {} if engine == "callable" else args.engine_args[name]
            as_agent = Agent(name=name, model=model, engine=engine, engine_args=settings)
            greedy = Sampling(temperature=args.temperature, max_tokens=args.max_new_tokens)
            leader = self._player(as_agent, greedy)
            if leader.tokenizer is not None:
                budget = leader.max_prompt_tokens
                leader.renderer = PromptRenderer(leader.tokenizer, config.template, budget, show=args.show)
            self.leaders.append(leader)
            if config.plays(name, "leader_vote"):
                drawn = Sampling(temperature=args.vote_temperature, max_tokens=args.max_new_tokens)
                self.samplers[name] = self._player(as_agent, drawn)
                self.samplers[name].renderer = leader.renderer

    def check_fit(self, questions: Sequence[Mapping], drop: bool) -> list[Mapping]:
        """The questions that fit every leader's prompt, found before an engine starts.

        Raises UserError for the first that does not fit, or with `drop` leaves it out.
        """
        kept = []
        long = "x " * 2 * MIN_RESPONSE_TOKENS  # the renderer asks for room for this many tokens of every text
        for question in questions:
            try:
                for leader in self.leaders:
                    if leader.renderer is not None:
                        leader.renderer.render(question["question"], [long] * len(self.team), long)
            except UserError:
                if not drop:
                    raise UserError(
                        f"question {question['id']} ({question['question'][:50]!r}…) does not fit the prompt of leader "
                        f"{leader.name!r} ({leader.max_prompt_tokens} tokens); raise max_model_len in --engine_args, "
                        "lower --max_new_tokens, or leave such questions out with --drop_long"
                    ) from None
                continue
            kept.append(question)
        return kept

    def leader(self, name: str) -> Player | None:
        return next((leader for leader in self.leaders if leader.name == name), None)

    def _agent(self, agent: Any, Sampling: type) -> Player:
        settings = {"max_tokens": self.args.max_new_tokens, **agent.sampling}
        player = self._player(agent, Sampling.from_dict(settings, f"agent {agent.name}: sampling"))
        player.template = load_template(agent.prompt) if agent.prompt else None
        player.system = agent.system
        return player

    def _player(self, agent: Any, sampling: Any) -> Player:
        from openrlhf_mlpo.engines import make_engine

        known = agent.identity()
        identity = {key: known[key] for key in ("model", "engine_args", "files")}
        generate = self.models.generate(agent.name, lambda: make_engine(agent), identity, sampling, kind=agent.engine)
        about = {"model": agent.model, "engine": agent.engine, "sampling": sampling.as_dict()}
        player = Player(agent.name, generate, about=about)
        if agent.engine in ("vllm", "ray"):
            player.tokenizer, context = model_limits(agent.model, agent.engine_args)
            player.max_prompt_tokens = self.args.max_prompt_tokens or context - sampling.max_tokens
            if player.max_prompt_tokens < 1:
                raise UserError(
                    f"{agent.name}: max_new_tokens {sampling.max_tokens} leaves nothing of the model's context of "
                    f"{context} tokens for a prompt; lower --max_new_tokens"
                )
        return player

    def __enter__(self) -> Players:
        return self

    def __exit__(self, *_: object) -> None:
        self.models.close()


def split_engine(model: str) -> tuple[str, str]:
    """`openai:MODEL`, `ray:MODEL` and `callable:FILE.py:FUNCTION` name an engine; anything else is vLLM's."""
    engine, found, rest = model.partition(":")
    return (engine, rest) if found and engine in ("openai", "ray", "callable", "vllm") else ("vllm", model)


def model_limits(model: str, engine_args: Mapping) -> tuple[Any, int]:
    """The model's tokenizer and its context length in tokens. Raises UserError when there is no such model."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UserError(f"model {model!r} cannot be read: {str(error).splitlines()[0]}") from None
    config = getattr(config, "text_config", config)
    context = engine_args.get("max_model_len") or getattr(config, "max_position_embeddings", 0) or FALLBACK_CONTEXT
    return tokenizer, int(context)
