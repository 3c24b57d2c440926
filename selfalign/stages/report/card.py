"""The model card that lies beside every trained policy: what it is, what it came from, what is known of it."""

from __future__ import annotations

from selfalign.config import Campaign, in_round
from selfalign.records import Report
from selfalign.stages.report import content, training
from selfalign.stages.report import judge as judges
from selfalign.stages.report.document import Block, Heading, Paragraph, Table, markdown, to_markdown
from selfalign.store import Run

LIMITS = (
    "The labels came from an AI judge, not from people: where the judge errs, this policy has learned the error. "
    "Win rates are that of a judge too, on held-out prompts of the same kind as the training prompts, and say nothing "
    "about others. Nothing here is a safety assessment."
)


def model_card(run: Run, report: Report, campaign: Campaign) -> str:
    """The card of a round's policy as Markdown with the metadata that model hubs read."""
    settings = in_round(campaign, report.round)
    base = settings.policy.model
    front = [
        "---",
        "library_name: transformers",
        f"tags: [selfalign, {settings.train.algorithm}, constitutional-ai, rlaif]",
        *([f"base_model: {base}"] if _is_hub_name(base) else []),
        "---",
        "",
    ]
    title = f"{run.path.name}, round {report.round}"
    return "\n".join(front) + to_markdown(title, _blocks(run, report, settings))


def _blocks(run: Run, report: Report, settings: Campaign) -> list[Block]:
    judge, last = settings.judge, settings.num_rounds - 1
    evaluating = settings.evaluate.judge.model or judge.model
    bootstrap = ", the bootstrap" if report.round < settings.first_round else ""
    rows = (
        ("base model", settings.policy.model),
        ("policy", f"{report.policy_id}, trained from {report.parent_id or 'nothing'}"),
        ("round", f"{report.round}{bootstrap}, of a campaign of {last + 1} (0 to {last})"),
        *training.learned_from(run, report, settings),
        ("training", training.method(settings)),
        ("reference", training.reference(settings, report.round)),
        ("constitution", f"{report.constitution}, hash {report.constitution_hash}"),
        *([("judged by", report.standard)] if report.standard else []),
        ("labelling judge", f"{', '.join(one.model for one in judge.members())}, {judge.method}"),
        ("evaluating judge", evaluating),
        ("seed", str(settings.seed)),
    )
    accepted = (
        "This policy passed the gate: "
        if report.gate.accepted
        else "This policy was REJECTED by the gate and is kept for study only: "
    )
    reason = report.gate.reason.removeprefix("accepted: ").removeprefix("rejected: ")
    return [
        Paragraph(f"{accepted}{reason}."),
        Heading("What it is"),
        Table(("", "value"), rows, numbers_from=2),
        Heading("What is known of it"),
        *content.details(report),
        Heading("The judges"),
        content.judge_table([report]),
        *judges.blocks(run, report.round),
        Heading("Limits"),
        Paragraph(LIMITS),
        Heading("Lineage"),
        *content.lineage(run, [report]),
    ]


def _is_hub_name(model: str) -> bool:
    """Whether a model is named as on a hub (owner/name), rather than by a path or a shipped name."""
    return model.count("/") == 1 and not model.startswith(("/", ".", "~")) and markdown(model).count(":") == 0
