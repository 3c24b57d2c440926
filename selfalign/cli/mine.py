"""`selfalign constitution mine`: propose principles that explain preferences, as a draft to work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selfalign import config, mining
from selfalign.cli import worker
from selfalign.cli.arguments import Backend, Json, Round, Runs
from selfalign.cli.errors import FAILED, USAGE, CommandError
from selfalign.cli.examples import chosen_rounds, elsewhere, examples
from selfalign.cli.output import print_json, print_table, say
from selfalign.cli.pairs import sides
from selfalign.cli.summary import last_accepted
from selfalign.cli.targets import CAMPAIGN_FILE, RUNS, find_run
from selfalign.cli.worker import Asked
from selfalign.constitution import check_document
from selfalign.mining import Mined, Preference, Rule, Split
from selfalign.mining.draft import draft
from selfalign.mining.proposals import KINDS, REFUSED, UNUSABLE
from selfalign.source import read_yaml
from selfalign.store import Run, atomic_write
from selfalign.text import clean, one_line
from selfalign.units import counted

COLUMNS = ("principle", "alone", "together", "support", "coverage", "swap")


def mine(
    target: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    model: str | None = None,
    base_url: str | None = None,
    backend: Backend = None,
    round: Round = None,
    pairs: int = 300,
    candidates: int = 16,
    most: int = 8,
    seed: int = 17,
    json: Json = False,
    runs: Runs = RUNS,
) -> int:
    """Propose principles that explain preferences, test them on held-out pairs, and write a draft constitution.

    Inverse constitutional AI (Findeis et al. 2024): a model proposes rules pair by pair, near-duplicates are put
    together, each rule judges the pairs in both orders, and a set is taken that explains them best. Nothing is written
    into a run.

    Parameters
    ----------
    target
        A run, or a file: JSON lines with prompt, chosen and rejected (TRL, HH), or CSV with text_a, text_b and
        preferred_text (ICAI).
    output
        The draft to write. It must not exist. Default: NAME.mined.yaml.
    model
        The model that proposes and judges: a folder, a name on the Hub, or openai:NAME. Default: the run's judge.
    base_url
        The address of an OpenAI-compatible server.
    backend
        What runs a local model. Default: as the run has it, or else vLLM where it is installed.
    pairs
        Draw at most so many pairs; the pairs of a third of their prompts are held out.
    candidates
        Judge by at most so many rules, those that most pairs support.
    most
        Take at most so many principles.
    seed
        Draws the pairs, splits them, and orders what the model is shown.
    """
    if min(pairs, candidates, most) < 1:
        raise CommandError("--pairs, --candidates and --most are 1 or more", code=USAGE)
    source = _source(target, round, runs)
    output = output or Path(f"{source.name}.mined.yaml")
    _check_output(output)
    who = _model(source, model, base_url, backend)
    evidence = mining.split(source.preferences, seed=seed, limit=pairs)
    say(_plan(evidence, who, candidates))
    with worker.progress() as told, worker.opened(who) as engine:
        mined = mining.mine(
            evidence, engine, who.campaign.judge, seed=seed, told=told, candidates=candidates, most=most
        )
    if mined.taken:
        text = draft(mined, name=f"{source.name}-mined", origin=source.origin, model=who.name)
        check_document(read_yaml(text, str(output)))
        atomic_write(output, text.encode("utf-8"))
    if json:
        print_json(_as_json(mined, output if mined.taken else None))
    else:
        print_table(COLUMNS, map(_row, mined.rules), right=COLUMNS[1:])
    _conclude(mined, output)
    return 0 if mined.taken else FAILED


def _plan(evidence: Split, who: Asked, candidates: int) -> str:
    """What is about to be asked, and of whom: over an API it has a price."""
    train, heldout = len(evidence.train), len(evidence.heldout)
    replies, verdicts = len(KINDS) * train, 2 * candidates * (train + heldout)
    return (
        f"{train} pairs to learn from, {heldout} held out; asking {one_line(who.name)} for {replies:,} replies and "
        f"up to {verdicts:,} verdicts"
    )


# Where the preferences come from, and who is asked.


@dataclass(frozen=True)
class _Source:
    """Preferences, what to call them, and the run that they are of."""

    preferences: Iterator[Preference | str]
    name: str
    origin: str
    run: Run | None


def _source(target: str, round: int | None, runs: Path) -> _Source:
    path = Path(target)
    if path.is_file():
        return _Source(mining.read(path), path.stem, path.name, None)
    if path.suffix in (".jsonl", ".ndjson", ".csv"):
        raise CommandError(f'there is no file "{target}"', fix="name a file of preferences, or a run", code=USAGE)
    run = find_run(target, runs)
    rounds = chosen_rounds(run, round)
    found = (_preference(pair) for pair in examples(run, "pairs", rounds))
    if (first := next(found, None)) is None:
        why = "\n".join(elsewhere(run, "pairs", rounds))
        raise CommandError(f"{run.path} holds no pairs to explain", why=why, code=USAGE)
    name = run.path.resolve().name
    return _Source(_and_then(first, found), name, f"the run {name}", run)


def _and_then(first: Preference, others: Iterator[Preference]) -> Iterator[Preference]:
    yield first
    yield from others


def _preference(pair: Any) -> Preference:
    chosen, rejected = sides(pair)
    return Preference(pair.prompt, chosen.text, rejected.text, pair.record.p_chosen)


def _check_output(output: Path) -> None:
    """Refuse before any model is loaded what could not be written in the end."""
    if output.exists():
        raise CommandError(f"{output} exists", fix="name another file by -o, or remove it first", code=USAGE)
    if not output.absolute().parent.is_dir():
        raise CommandError(f"there is no folder {output.parent}", fix="make it first", code=USAGE)


def _model(source: _Source, model: str | None, base_url: str | None, backend: str | None) -> Asked:
    campaign = config.load(source.run.path / CAMPAIGN_FILE).campaign if source.run else config.Campaign()
    judge = campaign.judge
    if model is None and source.run is None:
        fix = "--model FOLDER, a name on the Hub such as Qwen/Qwen3-8B, or openai:NAME"
        raise CommandError("a file has no judge of its own: which model is to be asked?", fix=fix, code=USAGE)
    if model is not None:
        judge = config.Judge(model=model, max_invalid=judge.max_invalid, max_concurrency=judge.max_concurrency)
    if base_url is not None:
        judge = replace(judge, base_url=base_url)
    if judge.model in ("self", "base") and source.run is not None:
        own = last_accepted(source.run) if judge.model == "self" else None
        policy = campaign.policy
        judge = replace(judge, model=own or policy.model, trust_remote_code=policy.trust_remote_code)
    return worker.asked(replace(campaign, judge=judge), backend)


# What came of it.


def _row(rule: Rule) -> tuple[str, ...]:
    interval = rule.alone.cautious
    return (
        rule.text,
        f"{rule.alone.value:.2f} ({interval.low:.2f} to {interval.high:.2f})",
        f"{rule.together.value:.2f}" if rule.together else "–",
        f"{rule.support}",
        f"{rule.coverage:.2f}",
        "–" if rule.consistency is None else f"{rule.consistency:.2f}",
    )


def _conclude(mined: Mined, output: Path) -> None:
    say(
        f"on {mined.num_heldout} held-out pairs, an undecided one counting half: "
        + (f"together {mined.together.value:.3f} ({mined.together.cautious}), " if mined.together else "")
        + f"the side that mostly wins {mined.majority:.3f}, length alone {mined.length.value:.3f}"
    )
    if mined.against_length is not None:
        say(f"against length alone: {mined.against_length.reason}")
    for line in _left_out(mined):
        say(line)
    if mined.taken:
        say(f"{counted(len(mined.taken), len(mined.rules), 'rules')} taken, as drafts: {clean(str(output))}")
        say(f"next:  read them, set `status: active`, then   selfalign constitution lint {output}")
    else:
        say("no rule explains the preferences better than a coin: no draft is written. Try more pairs or another model")


def _left_out(mined: Mined) -> Iterator[str]:
    """What was left out, and why, by kind."""
    counts = mined.counts
    words = UNUSABLE | REFUSED
    kinds = {"replies": UNUSABLE, "proposed rules": REFUSED}
    for what, reasons in kinds.items():
        if said := "; ".join(f"{counts[reason]} {words[reason]}" for reason in reasons if counts[reason]):
            yield f"{what} left out: {said}"
    rest = [reason for reason in counts if reason not in words and reason not in ("replies", "rules")]
    if said := "; ".join(f"{counts[reason]} {reason}" for reason in rest):
        yield f"pairs left out: {said}"


def _as_json(mined: Mined, output: Path | None) -> dict[str, Any]:
    return {**asdict(mined), "counts": dict(mined.counts), "draft": str(output) if output else None}
