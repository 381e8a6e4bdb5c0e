"""Print the Markdown tables of the README from the summaries of several quickstart runs.

python3 recipes/quickstart/results.py recipes/quickstart/results/*.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROWS = (
    ("leader + team, after MLPO", "leader_team"),
    ("leader + team, before MLPO", "leader_team_untrained"),
    ("majority vote", "majority_vote"),
    ("best agent", "best_agent"),
    ("leader alone, after MLPO", "leader_solo"),
    ("leader alone, before MLPO", "leader_solo_untrained"),
    ("leader alone, plain GRPO on as many rollouts", "grpo_solo"),
    ("any agent right (oracle)", "oracle"),
)
COMPARISONS = (
    ("leader + team, round 0 − majority vote", "leader_team[mlpo] first round - majority_vote"),
    ("leader + team, round 0 − best agent", "leader_team[mlpo] first round - best_agent"),
    ("leader + team, round 0 − before MLPO", "leader_team[mlpo] first round - leader_team[untrained] first round"),
    ("leader + team, last round − majority vote", "leader_team[mlpo] - majority_vote"),
    ("leader + team, last round − best agent", "leader_team[mlpo] - best_agent"),
    ("leader + team, last round − before MLPO", "leader_team[mlpo] - leader_team[untrained]"),
    ("leader alone − the same before MLPO", "leader_solo[mlpo] - leader_solo[untrained]"),
    ("leader alone − plain GRPO alone", "leader_solo[mlpo] - leader_solo[grpo]"),
    ("leader + team, last round − round 0", "leader_team[mlpo] last round - first round"),
)


def tables(summaries: list[dict]) -> str:
    """Accuracy and paired differences, one column a seed."""
    head = "| | " + " | ".join(f"seed {summary['seed']}" for summary in summaries) + " |"
    rule = "| --- |" + " --: |" * len(summaries)
    lines = [head.replace("| |", "| accuracy |", 1), rule]
    for title, key in ROWS:
        cells = []
        for summary in summaries:
            value = summary["accuracy"][key]
            cells.append(" → ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else f"{value:.3f}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", head.replace("| |", "| difference, 95 % interval |", 1), rule]
    for title, key in COMPARISONS:
        found = [summary["paired"][key] for summary in summaries]
        cells = [f"{test['diff']:+.3f} [{test['ci95'][0]:+.3f}, {test['ci95'][1]:+.3f}]" for test in found]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables([json.loads(Path(path).read_text()) for path in sys.argv[1:]]))
