"""The model card that lies beside every trained policy: what it is, what it came from, what is known of it."""

from __future__ import annotations

from selfalign import config
from selfalign.records import Report
from selfalign.stages.report import content
from selfalign.stages.report.document import Block, Heading, Paragraph, Table, markdown, to_markdown
from selfalign.store import Run

LIMITS = (
    "The labels came from an AI judge, not from people: where the judge errs, this policy has learned the error. "
    "Win rates are that of a judge too, on held-out prompts of the same kind as the training prompts, and say nothing "
    "about others. Nothing here is a safety assessment."
)


def model_card(run: Run, report: Report) -> str:
    """The card of a round's policy as Markdown with the metadata that model hubs read."""
    settings = config.load(run.path / "campaign.yaml").campaign
    base = settings.policy.model
    front = [
        "---",
        "library_name: transformers",
        "tags: [selfalign, dpo, constitutional-ai, rlaif]",
        *([f"base_model: {base}"] if _is_hub_name(base) else []),
        "---",
        "",
    ]
    title = f"{run.path.name}, round {report.round}"
    return "\n".join(front) + to_markdown(title, _blocks(run, report, settings))


def _blocks(run: Run, report: Report, settings: config.Campaign) -> list[Block]:
    train, judge = settings.train, settings.judge
    evaluating = settings.evaluate.judge.model or judge.model
    method = (
        f"{train.algorithm.upper()} ({train.loss} loss, beta {train.beta:g}), learning rate {train.learning_rate:g}, "
    )
    method += f"{train.epochs} epochs, " + (
        f"LoRA rank {settings.policy.adapter.rank}" if settings.policy.adapter else "all weights"
    )
    rows = (
        ("base model", settings.policy.model),
        ("policy", f"{report.policy_id}, trained from {report.parent_id or 'nothing'}"),
        ("round", f"{report.round} of a campaign of {settings.rounds} (0 to {settings.rounds - 1})"),
        ("training", method),
        ("reference", str(settings.reference)),
        ("constitution", f"{report.constitution}, hash {report.constitution_hash}"),
        ("labelling judge", f"{judge.model}, {judge.method}"),
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
        Heading("Limits"),
        Paragraph(LIMITS),
        Heading("Lineage"),
        *content.lineage(run, [report]),
    ]


def _is_hub_name(model: str) -> bool:
    """Whether a model is named as on a hub (owner/name), rather than by a path or a shipped name."""
    return model.count("/") == 1 and not model.startswith(("/", ".", "~")) and markdown(model).count(":") == 0
