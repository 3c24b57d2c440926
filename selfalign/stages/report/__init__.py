"""Report: what each round did, as JSON for programs and as Markdown and HTML pages for people.

A round's folder gets report.json, report.md, report.html and model_card.md, and reward_report.json where a reward model
was trained; the run's folder report.md and report.html, over all rounds. Everything that a model or a user wrote is
escaped; the pages hold no script and load nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from selfalign import config
from selfalign.config import Campaign
from selfalign.records import CanaryReport, Guarded, JudgeCard, Report, RewardReport
from selfalign.stages.report import card, content, guard, judge, reward_model
from selfalign.stages.report.document import to_html, to_markdown
from selfalign.stages.report.steps import seconds as stage_seconds
from selfalign.stages.report.truth import gold
from selfalign.store import Run


def write(run: Run, report: Report) -> None:
    """Write the report of a round just evaluated, and renew the pages of the run. Needs the run's lock."""
    run.write_json(f"{folder(report.round)}/report.json", _counts_only(report))
    render(run, [report.round])


def render(run: Run, rounds: Sequence[int] | None = None) -> list[str]:
    """Write the pages of the run and of some rounds (default: all) from their report.json; return the files' names.

    Needs the run's lock.
    """
    reports, stopped = read(run), not_to_follow(run)
    if not reports and not stopped:
        return []
    campaign = config.load(run.path / "campaign.yaml").campaign
    page = content.campaign_page(run, reports, campaign, gold(run), stopped)
    written = _write_pages(run, "", f"{run.path.name}: report", page)
    for report in reports:
        if rounds is None or report.round in rounds:
            written += _write_round(run, report, reports, campaign)
    for found in stopped:
        if rounds is None or found.round in rounds:
            title = f"{run.path.name}: round {found.round}"
            written += _write_pages(run, f"{folder(found.round)}/", title, content.stopped_page(found))
    return written


def write_reward_model(run: Run, found: RewardReport) -> None:
    """Write what a round's reward model is worth, and the pages where it is not one to follow. Needs the run's lock."""
    run.write_json(f"{folder(found.round)}/{reward_model.FILE}", found)
    if not found.go:
        render(run, [found.round])


def write_guard(run: Run, number: int, seen: Guarded) -> None:
    """Write what the guard of a round of PPO has seen so far. Needs the run's lock."""
    run.write_json(f"{folder(number)}/{guard.FILE}", seen)


def read_guard(run: Run, number: int) -> Guarded | None:
    """What the guard of a round of PPO has seen; None where there was none."""
    return guard.read(run, number)


def write_canaries(run: Run, found: CanaryReport) -> None:
    """Write how a round's judge took canaries, and the pages where it is stopped for it. Needs the run's lock."""
    run.write_json(f"{folder(found.round)}/{judge.CANARIES}", found)
    if found.stopped:
        render(run, [found.round])


def write_judge_cards(run: Run, number: int, cards: Sequence[JudgeCard]) -> None:
    """Write what is known of a round's judges, for the pages to come. Needs the run's lock."""
    if cards:
        run.write_json(f"{folder(number)}/{judge.CARDS}", list(cards))


def not_to_follow(run: Run) -> list[RewardReport | CanaryReport]:
    """What is known of the judges and reward models for which rounds were stopped, in order."""
    rewards = ((number, reward_model.read(run, number)) for number in run.rounds())
    canaries = ((number, judge.read_canaries(run, number)) for number in run.rounds())
    stopped = [(number, one) for number, one in rewards if one is not None and not one.go]
    stopped += [(number, one) for number, one in canaries if one is not None and one.stopped]
    return [one for _, one in sorted(stopped, key=lambda item: item[0])]


def read(run: Run) -> list[Report]:
    """The reports of a run's evaluated rounds, in order."""
    return [found for number in run.rounds() if (found := read_round(run, number)) is not None]


def read_round(run: Run, number: int) -> Report | None:
    """The report of a round; None where it has not been evaluated."""
    name = f"{folder(number)}/report.json"
    return msgspec.convert(run.read_json(name), Report) if (run.path / name).exists() else None


def folder(number: int) -> str:
    return f"rounds/{number:03d}"


def _counts_only(report: Report) -> Report:
    """Leave out what a step counts beside candidates and reasons for a discard: its seconds, and what it kept."""
    candidates = {name: count for name, count in report.candidates.items() if name != "seconds"}
    discarded = {name: count for name, count in report.discarded.items() if name not in ("seconds", report.examples)}
    return replace(report, candidates=candidates, discarded=discarded)


def _write_round(run: Run, report: Report, reports: Sequence[Report], campaign: Campaign) -> list[str]:
    previous = next((other for other in reports if other.round == report.round - 1), None)
    blocks = content.round_page(run, report, previous, campaign)
    names = _write_pages(run, f"{folder(report.round)}/", f"{run.path.name}: round {report.round}", blocks)
    name = f"{folder(report.round)}/model_card.md"
    run.write_text(name, card.model_card(run, report, campaign))
    return [*names, name]


def _write_pages(run: Run, prefix: str, title: str, blocks: Sequence[Any]) -> list[str]:
    run.write_text(f"{prefix}report.md", to_markdown(title, blocks))
    run.write_text(f"{prefix}report.html", to_html(title, blocks))
    return [f"{prefix}report.md", f"{prefix}report.html"]


__all__ = [
    "gold", "not_to_follow", "read", "read_guard", "read_round", "render", "stage_seconds", "write", "write_canaries",
    "write_guard", "write_judge_cards", "write_reward_model",
]  # fmt: skip
