"""What /metrics shows, in Prometheus' form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from openrlhf_mlpo.serve.protocol import Game


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self.requests = Counter("mlpo_requests", "Requests by model and status", ["model", "status"], registry=of)
        self.seconds = Histogram("mlpo_request_seconds", "Seconds from request to answer", ["model"], registry=of)
        self.in_flight = Gauge("mlpo_requests_in_flight", "Requests that are being answered", registry=of)
        self.tokens = Counter("mlpo_tokens", "Tokens of prompts and completions", ["player", "kind"], registry=of)
        self.rounds = Histogram("mlpo_rounds", "Rounds played", buckets=(1, 2, 3, 4, 5, 8), registry=of)
        self.failures = Counter("mlpo_agent_failures", "Questions an agent was left out of", ["agent"], registry=of)

    def count(self, model: str, status: int, seconds: float, game: Game) -> None:
        """Count a request that has ended: its tokens, its rounds, and the agents that were left out."""
        self.requests.labels(model, str(status)).inc()
        self.seconds.labels(model).observe(seconds)
        if game.rounds:
            self.rounds.observe(len(game.rounds))
        for turn in game.turns:
            self.tokens.labels(turn.player, "prompt").inc(turn.prompt_tokens)
            self.tokens.labels(turn.player, "completion").inc(turn.completion_tokens)
        for agent in game.failed:
            self.failures.labels(agent).inc()

    def text(self) -> bytes:
        """All counters."""
        return generate_latest(self.registry)
