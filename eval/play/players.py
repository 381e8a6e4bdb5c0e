"""The players of an evaluation from its command line: agents of the team file, leaders, leaders that are sampled."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from eval.play.calls import Models
from eval.play.state import Config
from openrlhf_mlpo.engines import Sampling, make_engine
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.prompts.renderer import MIN_RESPONSE_TOKENS
from openrlhf_mlpo.questions import Question
from openrlhf_mlpo.rounds import Player, agent_player, as_leader
from openrlhf_mlpo.team import Agent, check_endpoint, split_engine


class Players:
    """`team`, `leaders` and `samplers` (leaders at `--vote_temperature`), over the engines of `models`.

    `leaders`: models by name; `args.engine_args`: their engines' settings by name, as `options.check` leaves them.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        config: Config,
        agents: Sequence[Agent],
        leaders: Mapping[str, str],
        models: Models,
    ):
        self.args, self.config, self.models = args, config, models
        self.team = [self._agent(agent) for agent in agents]
        self.leaders: list[Player] = []
        self.samplers: dict[str, Player] = {}
        for name, model in leaders.items():
            engine, model = split_engine(model)
            agent = Agent(name=name, model=model, engine=engine, engine_args=args.engine_args.get(name, {}))
            self.leaders.append(self._leader(agent, args.temperature))
            if config.plays(name, "leader_vote"):
                self.samplers[name] = self._leader(agent, args.vote_temperature)

    def check_fit(self, questions: Sequence[Question], drop: bool) -> list[Question]:
        """The questions that fit every leader's prompt, found before an engine starts.

        Raises UserError for the first that does not fit, or with `drop` leaves it out.
        """
        long = "x " * 2 * MIN_RESPONSE_TOKENS  # the renderer asks for room for this many tokens of every text
        responses, last_output = [long] * len(self.team), long if self.team and self.config.rounds > 1 else None
        kept = []
        for question in questions:
            try:
                for leader in self.leaders:
                    if leader.renderer is not None:
                        leader.renderer.render(question.text, responses, last_output)
            except UserError:
                if not drop:
                    raise UserError(
                        f"question {question.id} ({question.text[:50]!r}…) does not fit the prompt of leader "
                        f"{leader.name!r} ({leader.max_prompt_tokens} tokens); raise max_model_len in --engine_args, "
                        "lower --max_new_tokens, or leave such questions out with --drop_long"
                    ) from None
                continue
            kept.append(question)
        return kept

    def _agent(self, agent: Agent) -> Player:
        settings = {"max_tokens": self.args.max_new_tokens, **agent.sampling}
        return self._player(agent, Sampling.from_dict(settings, f"agent {agent.name}: sampling"))

    def _leader(self, agent: Agent, temperature: float) -> Player:
        check_endpoint(agent, f"--leader {agent.name}=openai:{agent.model}")
        player = self._player(agent, Sampling(temperature=temperature, max_tokens=self.args.max_new_tokens))
        return as_leader(player, self.config.template, self.args.show)

    def _player(self, agent: Agent, sampling: Sampling) -> Player:
        known = agent.identity()
        identity = {key: known[key] for key in ("model", "engine_args", "files")}
        generate = self.models.generate(agent.name, lambda: make_engine(agent), identity, sampling, kind=agent.engine)
        return agent_player(agent, generate, sampling, max_prompt_tokens=self.args.max_prompt_tokens)
