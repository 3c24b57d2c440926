"""What the report pages say, as blocks: the same for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selfalign import principles
from selfalign.config import Campaign, in_round
from selfalign.records import Behaviour, HumanAgreement, JudgeHealth, Report, RewardReport, Sample, WinRate
from selfalign.stages.report import reward_model, steps, training, truth
from selfalign.stages.report.document import Block, Dialogue, Figure, Fold, Heading, Paragraph, Table
from selfalign.stages.report.plots import Point, Series, line_chart
from selfalign.store import Run, StoreError

NONE = "–"


def campaign_page(
    run: Run,
    reports: Sequence[Report],
    campaign: Campaign,
    gold: Mapping[str, Mapping[str, float]],
    stopped: Sequence[RewardReport] = (),
) -> list[Block]:
    """The page of a whole run: how the figures moved, then every round. `stopped` are rounds that have no report."""
    ends = [block for found in stopped for block in reward_model.stopped_page(found)]
    if not reports:
        return [Paragraph(standing(reports)), *ends]
    last = reports[-1]
    blocks: list[Block] = [
        Paragraph(standing(reports)),
        *ends,
        _gate(last),
        Heading("The rounds"),
        rounds_table(reports, campaign),
        *figures(reports),
    ]
    if gold:
        blocks += [Heading("True behaviour"), gold_table(truth.of_policies(gold))]
    blocks += [Heading(f"Before and after, round {last.round}"), *samples(last.samples)]
    blocks += [Heading("Judge health"), judge_table(reports), *people_table(reports)]
    blocks += [Heading("Round by round")]
    for report in reports:
        trained = training.blocks(run, report, in_round(campaign, report.round))
        rewarded = reward_model.blocks(run, report.round)
        found = (*trained, *rewarded, *details(report))
        blocks.append(Fold(f"Round {report.round}", found, open=not report.gate.accepted))
    return [*blocks, Heading("Lineage"), *lineage(run, reports)]


def round_page(run: Run, report: Report, previous: Report | None, campaign: Campaign) -> list[Block]:
    """The page of one round. `previous` is the report of the round before, where there was one."""
    changed = previous is not None and previous.constitution_hash != report.constitution_hash
    edited = [Paragraph(f"The constitution was edited since round {report.round - 1}.")] if changed else []
    return [
        _gate(report),
        *edited,
        *training.blocks(run, report, in_round(campaign, report.round)),
        *reward_model.blocks(run, report.round),
        *details(report),
        *_principles(run, report.round),
        Heading("Before and after"),
        *samples(report.samples),
        Heading("Judge health"),
        judge_table([report]),
        *people_table([report]),
        Heading("Lineage"),
        *lineage(run, [report]),
    ]


def standing(reports: Sequence[Report]) -> str:
    """Where the campaign stands, in a sentence."""
    accepted = [report.round for report in reports if report.gate.accepted]
    rounds = f"{len(reports)} {'round' if len(reports) == 1 else 'rounds'} evaluated"
    if not accepted:
        return f"{rounds}; none was accepted, so the base policy stays."
    return f"{rounds}, {len(accepted)} accepted; the policy is that of round {accepted[-1]}."


def _gate(report: Report) -> Paragraph:
    verdict = "accepted" if report.gate.accepted else "rejected"
    reason = report.gate.reason.removeprefix(f"{verdict}: ")
    return Paragraph(f"Round {report.round} was {verdict}: {reason}.", "good" if report.gate.accepted else "bad")


# Tables --------------------------------------------------------------------------------------------------------------


def rounds_table(reports: Iterable[Report], campaign: Campaign) -> Table:
    columns = (
        "round",
        "gate",
        "algorithm",
        "examples",
        "swap consistency",
        "win rate vs previous",
        "vs base",
        "KL to base",
        "length",
        "seconds",
    )
    rows = []
    for report in reports:
        number, gate, examples, *figures = round_cells(report)
        algorithm = in_round(campaign, report.round).train.algorithm
        rows.append((number, gate, algorithm, f"{examples} {report.examples}", *figures))
    return Table(columns, tuple(rows), numbers_from=3)


def round_cells(report: Report) -> list[str]:
    """One line on a round: what the tables of the pages and of the terminal show."""
    health = report.judges.get("labelling")
    return [
        str(report.round),
        "accepted" if report.gate.accepted else "REJECTED",
        f"{report.num_examples:,}",
        share(health.swap_consistency if health else None),
        rate(report.win_rates.get("previous")),
        rate(report.win_rates.get("base")),
        f"{round(report.kl.mean, 2) + 0.0:.2f} ± {1.96 * report.kl.standard_error:.2f}" if report.kl else NONE,
        f"×{report.length_ratio:.2f}" if report.length_ratio is not None else NONE,
        f"{sum(report.seconds.values()):,.0f}",
    ]


def details(report: Report) -> list[Block]:
    blocks: list[Block] = [_win_table(report), *_principle_table(report), _behaviour_table(report), _data_table(report)]
    seconds = tuple((stage, f"{value:,.1f}") for stage, value in report.seconds.items())
    return [*blocks, Table(("stage", "seconds"), seconds, "Time")]


def _win_table(report: Report) -> Table:
    rows = tuple(
        (
            f"against {name}",
            rate(win),
            _plain(win.length_controlled),
            f"{win.wins:,}",
            f"{win.ties:,}",
            f"{win.losses:,}",
            f"{win.n:,}",
        )
        for name, win in report.win_rates.items()
    )
    columns = ("", "win rate", "length-controlled", "wins", "ties", "losses", "prompts")
    by = f"; judged by {report.standard}" if report.standard else ""
    return Table(columns, rows, f"Win rate on held-out prompts, with 95% bootstrap intervals over prompts{by}")


def _principle_table(report: Report) -> list[Table]:
    names = sorted({name for rates in report.by_principle.values() for name in rates})
    if not names:
        return []
    against = tuple(report.by_principle)
    rows = tuple((name, *(rate(report.by_principle[a].get(name)) for a in against)) for name in names)
    return [Table(("principle", *(f"against {a}" for a in against)), rows, "Win rate by principle")]


def _behaviour_table(report: Report) -> Table:
    def cells(found: Behaviour) -> tuple[str, ...]:
        shares = (found.truncated, found.empty, found.refusal, found.repetition)
        return (f"{found.mean_tokens:.1f}", *map(share, shares), f"{found.distinct_1:.3f}", f"{found.distinct_2:.3f}")

    columns = ("answers of", "tokens", "truncated", "empty", "refusal", "repetition", "distinct-1", "distinct-2")
    names = {"base": "the base policy", "previous": "the previous policy", "policy": "this policy"}
    rows = tuple((names.get(name, name), *cells(found)) for name, found in report.behaviour.items())
    return Table(columns, rows, "How the held-out answers look")


def _data_table(report: Report) -> Table:
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in report.candidates.items()]
    rows += [(report.examples, f"{report.num_examples:,}")]
    rows += [(f"discarded: {reason.replace('_', ' ')}", f"{count:,}") for reason, count in report.discarded.items()]
    return Table(("data", "count"), tuple(rows), "What the round was trained on, and what was left out")


def judge_table(reports: Iterable[Report]) -> Table:
    columns = (
        "round", "judge", "judgments", "invalid", "ties", "swap consistency", "first preferred", "longer preferred",
    )  # fmt: skip
    rows = tuple(
        (str(report.round), name, *judge_cells(health)) for report in reports for name, health in report.judges.items()
    )
    note = "Without a liking for a position, the first shown is preferred in half of the comparisons."
    return Table(columns, rows, note, numbers_from=2)


def people_table(reports: Iterable[Report]) -> list[Table]:
    """How far the judges agreed with people, where the gate asked; no table otherwise."""
    rows = tuple(
        (str(report.round), name, f"{one.num_pairs:,}", share(one.raw), _kappa(one), ", ".join(one.labellers))
        for report in reports
        for name, one in report.humans.items()
    )
    columns = ("round", "judge", "labels", "the same", "kappa", "labellers")
    note = "What people said of pairs that the judge compared; kappa 0 is what chance makes, 1 is perfect."
    return [Table(columns, rows, note, numbers_from=2)] if rows else []


def _kappa(found: HumanAgreement) -> str:
    if found.kappa is None or found.low is None:
        return NONE
    return f"{found.kappa:.3f} ({found.low:.3f} to {found.high:.3f})"


def judge_cells(health: JudgeHealth) -> tuple[str, ...]:
    shares = (health.invalid, health.ties, health.swap_consistency, health.first_preferred, health.longer_preferred)
    return (f"{health.num_judgments:,}", *map(share, shares))


def _principles(run: Run, number: int) -> list[Block]:
    """What each principle did in a round, and what is wrong with it; nothing where no judge was asked."""
    try:
        found = principles.stats(run, [number])
    except StoreError as error:
        return [Heading("Principles"), Paragraph(f"They could not be read: {error}", "bad")]
    if not found.principles:
        return []
    flags = principles.by_fix(flag for record in found.principles for flag in record.flags)
    said = [Paragraph(f"{_flagged(raised)} What to do: {fix}.") for fix, raised in flags.items()]
    return [Heading("Principles"), _principles_table(found), *said]


def _flagged(raised: Iterable[principles.Flag]) -> str:
    return " ".join(f"{name}: {words}." for name, words in principles.worded(raised).items())


def _principles_table(found: principles.Stats) -> Table:
    columns = ("principle", "judgments", "prompts", "decisiveness", "chosen", "swap consistency", "longer preferred")
    figures = ("coverage", "decisiveness", "chosen", "swap_consistency", "longer")
    rows = tuple(
        (
            record.id,
            f"{record.over_all.judgments:,}",
            *(share(one.value if (one := getattr(record.over_all, figure)) else None) for figure in figures),
        )
        for record in found.principles
    )
    note = "Decisiveness: 0% is a coin toss. Chosen: what it prefers was trained on as the better. All rounds: "
    return Table(columns, rows, f"{note}selfalign constitution stats")


def gold_table(gold: Mapping[str, Mapping[str, float]]) -> Table:
    """Behaviours as rows, policies as columns."""
    names = list(dict.fromkeys(name for found in gold.values() for name in found))
    rows = tuple((name.replace("_", " "), *(_plain(found.get(name)) for found in gold.values())) for name in names)
    return Table(("behaviour", *gold), rows, "Counted on fresh held-out samples by checkers that know the truth")


# Figures, samples, lineage -------------------------------------------------------------------------------------------


def figures(reports: Sequence[Report]) -> list[Block]:
    """Win rate, KL, length and judge health by round, each also in words."""
    labels = [f"round {report.round}" for report in reports]
    wins = [
        Series(
            f"vs {name}",
            tuple(Point(i, w.rate, w.low, w.high) for i, r in enumerate(reports) if (w := r.win_rates.get(name))),
        )
        for name in ("previous", "base")
    ]
    kl = tuple(
        Point(i, r.kl.mean, r.kl.mean - 1.96 * r.kl.standard_error, r.kl.mean + 1.96 * r.kl.standard_error)
        for i, r in enumerate(reports)
        if r.kl
    )
    length = tuple(Point(i, r.length_ratio) for i, r in enumerate(reports) if r.length_ratio is not None)
    health = [
        Series(name, tuple(Point(i, h.swap_consistency) for i, r in enumerate(reports)
                           if (h := r.judges.get(name)) and h.swap_consistency is not None))
        for name in ("labelling", "evaluating")
    ]  # fmt: skip
    charts = [
        ("Win rate, with 95% intervals", wins, 0.5, None, 0.2),
        ("KL to base, nats per response", [Series("KL", kl)], None, 0.0, 0.1),
        ("Length over the base's", [Series("length", length)], 1.0, None, 0.5),
        ("Judge swap consistency", health, None, 0.5, 0.5),
    ]
    return [
        Figure(
            line_chart(title, labels, series, limit=limit, floor=floor, min_span=min_span),
            _words(title, labels, series),
        )
        for title, series, limit, floor, min_span in charts
        if any(one.points for one in series)
    ]


def _words(title: str, labels: Sequence[str], series: Sequence[Series]) -> str:
    said = [
        f"{one.label} " + ", ".join(f"{point.y:.3g} ({labels[point.x]})" for point in one.points)
        for one in series
        if one.points
    ]
    return f"{title}: {'; '.join(said)}."


def samples(found: Iterable[Sample]) -> list[Block]:
    """Held-out prompts with the answers before and after, drawn by the campaign's seed."""
    blocks: list[Block] = []
    for sample in found:
        turns = [(message.role, message.content) for message in sample.messages]
        chance = f" (the judge prefers it with {sample.p_policy:.2f})" if sample.p_policy is not None else ""
        if sample.previous != sample.base:
            turns.append(("answer of the base policy", sample.base))
        turns += [("answer before this round", sample.previous), (f"answer after this round{chance}", sample.policy)]
        blocks.append(Dialogue(tuple((label, text or "(empty)") for label, text in turns)))
    return blocks or [Paragraph("No held-out prompt was answered by all policies.")]


def lineage(run: Run, reports: Iterable[Report]) -> list[Block]:
    """From which model, constitution and data every policy came, with the digests of the steps."""
    blocks: list[Block] = []
    for report in reports:
        rows = [
            ("policy", report.policy_id),
            ("trained from", report.parent_id or NONE),
            ("constitution", f"{report.constitution} ({report.constitution_hash})"),
            *([("judged by", report.standard)] if report.standard else []),
        ]
        found = steps.finished(run, report.round)
        rows += [(step.name, step.digest) for stage, step in found if stage != "evaluate"]
        blocks.append(Table(("", f"round {report.round}"), tuple(rows), numbers_from=2))
    return blocks


# Numbers -------------------------------------------------------------------------------------------------------------


def rate(win: WinRate | None) -> str:
    """A win rate with its interval: 0.612 (0.551 to 0.668)."""
    return f"{win.rate:.3f} ({win.low:.3f} to {win.high:.3f})" if win else NONE


def share(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else NONE


def _plain(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else NONE
