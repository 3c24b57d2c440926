"""`selfalign constitution lint --judge`: the examples of constitutions put before a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from selfalign import config
from selfalign.cli import worker
from selfalign.cli.arguments import Backend
from selfalign.cli.output import say
from selfalign.constitution.lint import Finding
from selfalign.mining.examples import disagreements, stated
from selfalign.text import one_line


def judged(
    findings: Mapping[Path, Sequence[Finding]], model: str, base_url: str | None, backend: Backend
) -> dict[Path, list[Finding]]:
    """What a judge makes of the examples of each file, but for files that were refused."""
    judge = config.Judge(model=model, **({"base_url": base_url} if base_url else {}))
    campaign = config.Campaign(judge=judge)
    who = worker.asked(campaign, backend)
    sound = [path for path, found in findings.items() if all(finding.rule != "refused" for finding in found)]
    counts = {path: count for path in sound if (count := len(stated(path)))}
    if not counts:
        say("no active principle has an example to judge")
        return {}
    say(f"asking {one_line(who.name)} for {2 * sum(counts.values()):,} verdicts on examples")
    with worker.progress() as told, worker.opened(who) as engine:
        return {path: disagreements(path, engine, judge, seed=campaign.seed, told=told) for path in counts}
