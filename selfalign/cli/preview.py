"""`selfalign constitution preview`: what an edit would change, in tables, lists and side by side."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.examples import answer_text, cells, conversation
from selfalign.cli.output import is_plain, print_json, print_parts, print_table, say
from selfalign.cli.targets import CAMPAIGN_FILE
from selfalign.config import Campaign, load
from selfalign.constitution import Constitution
from selfalign.engines.hardware import has_gpu
from selfalign.preview import Case, Group, Preview, PreviewError, Said, Share
from selfalign.preview import preview as judged
from selfalign.records import Candidate
from selfalign.rewording import diff as coloured
from selfalign.rewording import marked
from selfalign.store import Run
from selfalign.text import one_line
from selfalign.units import duration

NONE = "–"


def preview(
    run: Run, edited: Constitution, *, round: int | None, pairs: int, flips: bool, show: int | None, json: bool
) -> int:
    """Judge, and print what was asked for. Returns the exit code."""
    if pairs < 1:
        raise CommandError("--pairs must be at least 1", code=USAGE)
    found = _judged(run, edited, round, pairs)
    if show is not None:
        return _show(found, show, json)
    if json:
        print_json(_facts(found))
    elif flips:
        _print_flips(found)
    else:
        _print_summary(found)
    _say_cost(found)
    return 0


def _judged(run: Run, edited: Constitution, round: int | None, pairs: int) -> Preview:
    from selfalign.launch.local import LocalWorkers

    settings = _for_few_questions(load(run.path / CAMPAIGN_FILE).campaign)
    say(f"asking the judge of {run.path} about up to {pairs:,} pairs")
    with tempfile.TemporaryDirectory() as logs, LocalWorkers(settings, Path(logs)) as workers:
        try:
            return judged(run, settings, edited, workers, round=round, pairs=pairs, tell=say)
        except PreviewError as error:
            raise CommandError(str(error), where=str(run.path), fix=f"selfalign status {run.path}") from error


def _for_few_questions(settings: Campaign) -> Campaign:
    """Without a GPU transformers has answered a few hundred questions before vLLM has started; if `auto` may choose."""
    if settings.engine.backend != "auto" or has_gpu():
        return settings
    return replace(settings, engine=replace(settings.engine, backend="transformers"))


def _facts(found: Preview) -> dict[str, Any]:
    """Everything but the texts of the pairs that do not flip."""
    return {
        "run": found.run,
        "round": found.round,
        "judge_id": found.judge_id,
        "change": found.change,
        "pairs": len(found.cases),
        "principles": found.principles,
        "added": found.added,
        "tags": found.tags,
        "unchanged": found.unchanged,
        "cost": found.cost,
        "flips": [_case_facts(case) for case in found.flips],
    }


def _case_facts(case: Case) -> dict[str, Any]:
    return {
        "number": case.number,
        "principle": case.principle,
        "flip": case.flip,
        "noisy": case.noisy,
        "before": case.before,
        "after": case.after,
        "again": case.again,
        "prompt_id": case.prompt.id,
        "tags": case.prompt.tags,
        "messages": case.prompt.messages,
        "first": {"id": case.first.id, "text": case.first.text},
        "second": {"id": case.second.id, "text": case.second.text},
    }


def _print_summary(found: Preview) -> None:
    if found.principles:
        _print_groups("principle", found.principles)
        print()
        _print_groups("tag of the prompt", found.tags)
    if found.added:
        print()
        rows = [(group.name, f"{group.flips.n:,}", _share(group.flips)) for group in found.added]
        print_table(("new principle", "pairs", "against the verdicts so far"), rows, right=("pairs",))
    if not found.cases:
        print("no stored pair is under a principle that changed" if found.change.judged_anew else "no words changed")
    for line in _remarks(found):
        say(line)


def _print_groups(name: str, groups: Sequence[Group]) -> None:
    rows = [
        (
            group.name,
            f"{group.flips.n:,}",
            _share(group.flips),
            _share(group.noise),
            "yes" if group.beyond_noise else "no",
            ", ".join(f"{count} {kind}" for kind, count in group.kinds.items()) or NONE,
        )
        for group in groups
    ]
    print_table((name, "pairs", "flips", "noise", "beyond noise", "which"), rows, right=("pairs",))


def _share(share: Share) -> str:
    if share.interval is None:
        return NONE
    low, high = (f"{100 * bound:.0f}" for bound in share.interval)
    return f"{share.count} = {100 * share.count / share.n:.0f}% ({low} to {high})"


def _remarks(found: Preview) -> Iterator[str]:
    yield f"{one_line(found.change.before)} → {one_line(found.change.after)}, on pairs of round {found.round}"
    yield "noise: the old text asked again with other marks around the answers; a lead under pairs.min_margin is a tie"
    if held := sum(found.unchanged.values()):
        yield f"verdicts hold on {held:,} pairs under {len(found.unchanged)} principles whose words did not change"
    unseen = {c.kind for c in found.change.changes} & {"reweighted", "moved", "retired"}
    if unseen:
        yield f"not previewed: principles {', '.join(sorted(unseen))}; that changes labels without a new verdict"
    if found.flips:
        yield "next:  the same command with --flips, or with --show NUMBER for one pair side by side"


def _say_cost(found: Preview) -> None:
    cost = found.cost
    dollars = f", {cost.dollars:.2f} dollars" if cost.dollars is not None else ""
    say(
        f"{cost.asked:,} questions asked ({cost.tokens:,} tokens{dollars}, {duration(cost.seconds)}), "
        f"{cost.known:,} known before"
    )


def _print_flips(found: Preview) -> None:
    rows = [
        (
            str(case.number),
            case.principle,
            f"{_word(case.before)} → {_word(case.after)}" + " (noisy)" * case.noisy,
            *cells((case.prompt.messages[-1].content, case.first.text, case.second.text)),
        )
        for case in found.flips
    ]
    if rows:
        print_table(("number", "principle", "verdict", "prompt", "first", "second"), rows, right=("number",))
    else:
        print("no verdict changes")


def _word(said: Said) -> str:
    return said.verdict if said.lead is None else f"{said.verdict} ({said.lead:+.2f})"


def _show(found: Preview, number: int, json: bool) -> int:
    if not 0 <= number < len(found.cases):
        why = f"its pairs are numbered from 0 to {len(found.cases) - 1}" if found.cases else "it holds no pair"
        raise CommandError(f"this preview has no pair {number}", why=why, fix="--flips lists them", code=USAGE)
    case = found.cases[number]
    print_json(_case_facts(case)) if json else print_parts(_sheet(found, case))
    return 0


def _sheet(found: Preview, case: Case) -> Iterator[Text]:
    yield Text(f"pair {case.number}   {one_line(case.principle)}   {case.flip or 'no flip'}", style="bold")
    for change in found.change.changes:
        if change.principle in ("", case.principle) and change.kind == "reworded":
            yield Text(f"\n{change.field}", style="bold dim")
            yield _rewording(str(change.before), str(change.after))
    yield from conversation(case.prompt)
    yield from _answer("first", case.first)
    yield from _answer("second", case.second)
    yield Text("\nverdicts (lead of the first)", style="bold dim")
    yield Text(f"  by the old text  {_word(case.before)}" if not case.added else f"  so far  {_word(case.before)}")
    yield Text(f"  by the new text  {_word(case.after)}")
    if case.again is not None:
        yield Text(f"  by the old text with other marks  {_word(case.again)}")


def _rewording(before: str, after: str) -> Text:
    if is_plain(sys.stdout):
        return Text(one_line(marked(before, after)))
    return coloured(one_line(before), one_line(after))


def _answer(name: str, answer: Candidate) -> Iterator[Text]:
    yield Text(f"\n{name}  (sample {answer.sample_index})", style="bold")
    yield answer_text(answer)
