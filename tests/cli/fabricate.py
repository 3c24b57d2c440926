"""A run folder of two rounds with hostile texts in every field that a model, a judge or a user can write."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign import config
from selfalign.records import (
    Behaviour,
    Candidate,
    Gate,
    JudgeHealth,
    Judgment,
    Kl,
    Message,
    Pair,
    Prompt,
    Ranking,
    Report,
    Revision,
    Sample,
    WinRate,
)
from selfalign.stages import report
from selfalign.store import Run
from tests.cli.events import HOSTILE, stream

CAMPAIGN = """\
name: {name}
rounds: 3
seed: {seed}
constitution: rules.yaml
policy: {{model: model}}
prompts: {{train: train.jsonl, heldout: heldout.jsonl}}
evaluate: {{prompts: 2}}
"""
RULES = """\
schema: selfalign.constitution/v1
name: rules
version: 1.0.0
principles:
  - {id: kind, text: "The response is kind."}
"""
NUM_PROMPTS = 6


def make_run(root: Path, name: str = "sample", *, seed: int = 17, rejected: bool = False, finished: bool = True) -> Run:
    """Write a campaign file with what it names, and its run with two rounds; the second is rejected if asked."""
    (root / "rules.yaml").write_text(RULES)
    (root / "train.jsonl").write_text("".join(f'{{"prompt": "train {i}"}}\n' for i in range(NUM_PROMPTS)))
    (root / "heldout.jsonl").write_text("".join(f'{{"prompt": "heldout {i}"}}\n' for i in range(2)))
    file = root / f"{name}.yaml"
    file.write_text(CAMPAIGN.format(name=name, seed=seed))
    run = Run.create(root / "runs" / name, config.load(file).to_yaml())
    with run.lock():
        for event in stream():
            if finished or event["event"] != "warning":
                run.emit(event["event"], **{key: value for key, value in event.items() if key not in ("event", "time")})
        for number in (0, 1):
            _round(run, number, accepted=not (rejected and number == 1))
        if finished:
            run.emit("campaign_done", rounds=3)
    return run


MIXED = """\
replay: {ratio: 0.5}
schedule:
  - {rounds: 1, train: {algorithm: sft}}
  - {rounds: 1, train: {algorithm: kto, beta: 0.3}}
  - {rounds: 1, pairs: {strategy: spin}}
"""


def make_mixed_run(root: Path, name: str = "mixed") -> Run:
    """Beside what `make_run` wrote: three rounds, of demonstrations, of labelled rankings, and of spin's pairs."""
    file = root / f"{name}.yaml"
    file.write_text(CAMPAIGN.format(name=name, seed=17) + MIXED)
    run = Run.create(root / "runs" / name, config.load(file).to_yaml())
    with run.lock():
        run.emit("campaign_started", rounds=3)
        for number, kind in enumerate(("demonstrations", "rankings", "pairs")):
            _round(run, number, accepted=True, kind=kind, gold=True)
        run.emit("campaign_done", rounds=3)
    return run


def make_large_run(root: Path, name: str = "many", *, pairs: int = 100_000) -> Run:
    """What `make_run` writes, and a third round with many pairs; each has two verdicts."""
    run = make_run(root, name)
    with run.lock():
        for _ in large_round(run, 2, pairs):
            pass
    return run


def large_round(run: Run, number: int, pairs: int, shard: int = 1000) -> Iterator[str]:
    """Write a round of pairs, and yield each time a shard of it was written. To be called with the lock of the run."""
    inputs: dict[str, str] = {}
    for kind in ("prompts", "candidates", "judgments", "pairs"):
        step = run.step(f"rounds/{number:03d}/{kind}", inputs=inputs, config={})
        for index, start in enumerate(range(0, pairs, shard)):
            step.write(index, _large(kind, range(start, min(start + shard, pairs)), pairs))
            yield step.name
        step.finish({})
        inputs = {**inputs, step.name: step.digest}


def _large(kind: str, numbers: range, pairs: int) -> list[Any]:
    if kind == "prompts":
        tags = ("odd",), ("even",)
        return [Prompt(f"p{i}", (Message("user", f"question {i}"),), tags=tags[i % 2 == 0]) for i in numbers]
    if kind == "candidates":
        return [
            Candidate(f"{side}{i}", f"p{i}", "policy", 0, 0, f"{side} answer {i}", (1,) * (i % 50), "stop")
            for i in numbers
            for side in "ab"
        ]
    if kind == "judgments":  # in every tenth pair the judge goes by the order
        return [_vote(i, x, y, 0.8 if x == "a" or i % 10 == 0 else 0.2) for i in numbers for x, y in ("ab", "ba")]
    return [Pair(f"p{i}", f"a{i}", f"b{i}", 0.8, i / pairs) for i in numbers]


def _vote(i: int, first: str, second: str, p: float) -> Judgment:
    ids = f"{first}{i}", f"p{i}", f"{first}{i}", f"{second}{i}"
    return Judgment(*ids, "kind", "hash", "judge", "template", "first", p)


JUDGED_RULES = """\
schema: selfalign.constitution/v1
name: judged
version: 1.0.0
principles:
  - {id: kind, text: "The response is kind."}
  - {id: twin, text: "The response is friendly."}
  - {id: long, text: "The response is thorough."}
  - {id: contrary, text: "The response is blunt."}
  - {id: mute, text: "The response is a response."}
  - {id: fickle, text: "The response comes first."}
  - {id: garbled, text: "The response is what it is."}
  - {id: unasked, text: "The response is in verse.", applies_when: {prompt_tags: [poem]}}
"""


def make_judged_run(
    root: Path, name: str = "judged", *, prompts: int = 60, rounds: int = 2, rated: bool = False, seed: int = 5
) -> Run:
    """A run of nothing but prompts, candidates, judgments and pairs, by principles whose ways are known.

    The later the round, the longer are answers that are `kind`. `twin` is of the opinion of `kind`, `contrary` of
    the opposite one, `mute` of none; `long` likes length, `fickle` the first shown, `garbled` is often invalid, and
    `unasked` is never put to the judge.
    """
    (root / "judged.rules.yaml").write_text(JUDGED_RULES)
    for split in ("train", "heldout"):
        (root / f"{split}.jsonl").write_text(f'{{"prompt": "{split}"}}\n')
    file = root / f"{name}.yaml"
    file.write_text(CAMPAIGN.format(name=name, seed=seed).replace("rules.yaml", "judged.rules.yaml"))
    run, draw = Run.create(root / "runs" / name, config.load(file).to_yaml()), random.Random(seed)
    with run.lock():
        for number in range(rounds):
            _judged_round(run, number, prompts, rated, draw)
    return run


def _judged_round(run: Run, number: int, count: int, rated: bool, draw: random.Random) -> None:
    folder, digests = f"rounds/{number:03d}", {}
    run.write_text(f"{folder}/constitution.yaml", JUDGED_RULES)
    prompts = [Prompt.make((Message("user", f"{number}.{i}"),), response="the gold answer") for i in range(count)]
    candidates, judgments, pairs = [], [], []
    for prompt in prompts:
        merits = [draw.gauss(0, 2) for _ in range(3)]
        sampled = [_worth(prompt, i, merit, number, draw) for i, merit in enumerate(merits)]
        candidates += sampled
        for i, j in ((0, 1), (0, 2), (1, 2)):
            judgments += _of_two(sampled[i], sampled[j], merits[i] - merits[j], draw) if not rated else ()
        judgments += (
            [j for one, merit in zip(sampled, merits, strict=True) for j in _rate(one, merit, draw)] if rated else ()
        )
        best, worst = (sampled[merits.index(end(merits))] for end in (max, min))
        pairs.append(Pair(prompt.id, best.id, worst.id, 0.9, 0.8))
    steps = (("prompts", prompts), ("candidates", candidates), ("judgments", judgments), ("pairs", pairs))
    for name, rows in steps:
        digests |= _write(run, f"{folder}/{name}", rows, digests)


def _worth(prompt: Prompt, index: int, merit: float, number: int, draw: random.Random) -> Candidate:
    identity = Candidate.make_id(prompt.id, f"policy{number}", index, index)
    tokens = max(1, round(30 + 10 * draw.gauss(0, 1) + 8 * number * merit))
    text = "the gold answer" if merit > 2 else f"answer {index}"
    return Candidate(identity, prompt.id, f"policy{number}", index, index, text, tuple(range(tokens)), "stop", -2.0)


def _leads(a: Candidate, b: Candidate, merit: float) -> dict[str, float]:
    """The log-odds with which each principle prefers `a`; `merit` is how much kinder it is."""
    length = (len(a.token_ids) - len(b.token_ids)) / 5
    return {"kind": merit, "twin": merit * 1.1, "long": length, "contrary": -merit, "mute": 0.0, "fickle": 0.0,
            "garbled": merit}  # fmt: skip


def _of_two(a: Candidate, b: Candidate, merit: float, draw: random.Random) -> list[Judgment]:
    found = []
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        for name, lead in _leads(a, b, merit).items():
            log_odds = draw.gauss(2, 1) if name == "fickle" else sign * lead + (draw.gauss(0, 0.3) if lead else 0.0)
            p = None if name == "garbled" and draw.random() < 0.3 else 1 / (1 + math.exp(-log_odds))
            verdict = "invalid" if p is None else "tie" if p == 0.5 else "first" if p > 0.5 else "second"
            found.append(_verdict(first, second.id, name, verdict, p_first=p))
    return found


def _rate(one: Candidate, merit: float, draw: random.Random) -> list[Judgment]:
    length = len(one.token_ids) / 10
    ratings = {"kind": merit, "twin": merit * 1.1, "long": length, "contrary": -merit, "mute": 3.0, "garbled": merit}
    return [
        _verdict(one, "", name, "invalid", rating=None)
        if name == "garbled" and draw.random() < 0.3
        else _verdict(one, "", name, "not_applicable", rating=rating)
        for name, rating in ratings.items()
    ]


def _verdict(
    first: Candidate, second_id: str, name: str, verdict: str, p_first: float | None = None, rating: float | None = None
) -> Judgment:
    identity = Judgment.make_id(first.prompt_id, first.id, second_id, name, "judge", "template")
    asked = (first.prompt_id, first.id, second_id, name, f"hash of {name}", "judge", "template")
    return Judgment(identity, *asked, verdict, p_first, rating)


def _round(run: Run, number: int, *, accepted: bool, kind: str = "pairs", gold: bool = False) -> None:
    folder, response = f"rounds/{number:03d}", f"gold {HOSTILE}" if gold else None
    prompts = [
        Prompt.make((Message("user", f"prompt {number}.{i} {HOSTILE}"),), source=HOSTILE, response=response)
        for i in range(NUM_PROMPTS)
    ]
    candidates = [_candidate(prompt, index, number) for prompt in prompts for index in range(2)]
    judged = list(zip(prompts, candidates[::2], candidates[1::2], strict=True))
    judgments = [judgment for _, a, b in judged for judgment in _judgments(a, b)]
    run.write_text(f"{folder}/constitution.yaml", RULES)
    digests: dict[str, str] = {}
    for name, rows in (("prompts", prompts), ("candidates", candidates), ("judgments", judgments)):
        digests |= _write(run, f"{folder}/{name}", rows, digests)
    revised = dict(digests)
    if number == 0:
        inputs = {name: digests[name] for name in (f"{folder}/prompts", f"{folder}/candidates")}
        revised |= _revise(run, inputs, candidates)
    examples = [_example(kind, *three, i, gold) for i, three in enumerate(judged)]
    digests |= _write(run, f"{folder}/{kind}", examples, revised if kind == "demonstrations" else digests)
    if gold and kind == "pairs":
        digests |= _write(run, f"{folder}/replay/{kind}", [Pair("earlier", "a", "b", 0.8, 0.5)] * 3, digests)
    policy = run.step(f"{folder}/policy", inputs=digests, config={})
    (policy.path / "config.json").write_text("{}")
    (policy.path / "metrics.jsonl").write_text("".join(f"{json.dumps(_metrics(kind, i))}\n" for i in range(1, 21)))
    policy.finish({"seconds": 9.0})
    report.write(run, make_report(run, number, accepted=accepted, kind=kind))


def _metrics(kind: str, step: int) -> dict[str, float]:
    """What training on a kind of example logs: of demonstrations no rewards, of labelled answers no accuracies."""
    found = {"step": step, "loss": 0.7 - 0.001 * step, "logps/chosen": -40.0 + 0.1 * step}
    if kind != "demonstrations":
        found |= {"logps/rejected": -40.0, "rewards/chosen": 0.01 * step, "rewards/rejected": -0.01 * step}
        found["rewards/margins"] = 0.02 * step
    return found | ({"rewards/accuracies": 0.5 + 0.005 * step} if kind == "pairs" else {})


def _write(run: Run, name: str, rows: list[Any], inputs: dict[str, str], seconds: float = 2.5) -> dict[str, str]:
    step = run.step(name, inputs=inputs, config={})
    step.write(0, rows, counts={"rows": len(rows)})
    step.finish({"seconds": seconds})
    return {name: step.digest}


def _example(
    kind: str, prompt: Prompt, a: Candidate, b: Candidate, i: int, gold: bool
) -> Pair | Ranking | Candidate | None:
    evidence = tuple(judgment.id for judgment in _judgments(a, b))
    if kind == "demonstrations":  # a revision, an answer as it was sampled, then gold answers
        return _revision(a, 1, a.id, f"kinder {HOSTILE}").candidate() if i == 0 else a if i == 1 else prompt.gold()
    if kind == "rankings":  # the first has lost its best answer
        kept = slice(0 if i else 1, None)
        values = ((a.id, b.id), (0.9, -0.9), (0.7, 0.3), (True, False))
        return Ranking(prompt.id, *(value[kept] for value in values), judgment_ids=evidence)
    if gold:
        return Pair(prompt.id, prompt.gold().id, b.id, 1.0, 1.0)
    return Pair(prompt.id, a.id, b.id, 0.8, 0.1 * (i + 1), judgment_ids=evidence)


def _candidate(prompt: Prompt, index: int, number: int) -> Candidate:
    identity = Candidate.make_id(prompt.id, f"policy{number}", index, index)
    text = f"answer {index} {HOSTILE}\nsecond line" if index == 0 else ""
    return Candidate(identity, prompt.id, f"policy{number}", index, index, text, (1, 2, 3), "stop", -2.0)


def _revise(run: Run, inputs: dict[str, str], answers: list[Candidate]) -> dict[str, str]:
    """Two steps of critique and revision; in the second, one is cut off, one has no critique, one changes nothing."""
    first = [_revision(answer, 1, answer.id, f"kinder {HOSTILE}\nsecond line") for answer in answers if answer.text]
    second = [_revision(r, 2, r.id, f"kinder still {HOSTILE}\nthird line") for r in first]
    second[1] = replace(second[1], text="half an ans", finish_reason="length")
    second[2] = replace(second[2], critique="", critique_finish="error", text="", token_ids=(), finish_reason="error")
    second[3] = replace(second[3], text=first[3].text)
    for number, rows in ((1, first), (2, second)):
        inputs = {**inputs, **_write(run, f"rounds/000/steps/{number}/revisions", rows, inputs, seconds=1.5)}
    return inputs


def _revision(before: Candidate | Revision, step: int, before_id: str, text: str) -> Revision:
    answer = before.id if isinstance(before, Candidate) else before.candidate_id
    principle = "kind" if step == 1 else f"brief{HOSTILE}"
    identity = Revision.make_id(answer, step, "hash", "template", 1)
    ids = (identity, before.prompt_id, answer, step, before_id, principle, "hash", "policy0", "template")
    return Revision(*ids, f"It is unkind. {HOSTILE}", "stop", text, (1, 2, 3, 4), "stop")


def _judgments(a: Candidate, b: Candidate) -> list[Judgment]:
    def judgment(first: Candidate, second: Candidate, p_first: float) -> Judgment:
        identity = Judgment.make_id(a.prompt_id, first.id, second.id, "hash", "judge", "template")
        verdict = "first" if p_first > 0.5 else "second"
        fields = {"principle_id": "kind", "principle_hash": "hash", "judge_id": "judge", "template_hash": "template"}
        return Judgment(
            identity,
            a.prompt_id,
            first.id,
            second.id,
            verdict=verdict,
            p_first=p_first,
            raw=HOSTILE,
            reason=HOSTILE,
            **fields,
        )

    return [judgment(a, b, 0.85), judgment(b, a, 0.25)]


def make_report(run: Run, number: int, *, accepted: bool, kind: str = "pairs") -> Report:
    rate = 0.58 + 0.07 * number
    win = WinRate(rate, rate - 0.06, rate + 0.05, 128, 70, 8, 50, rate - 0.01)
    looks = Behaviour(128, 21.5 + number, 0.01, 0.0, 0.25, 0.04, 0.31, 0.62)
    health = JudgeHealth(600, 0.01, 0.02, 300, 0.91 - 0.01 * number, 0.53, 0.55)
    sample = Sample(
        "p",
        (Message("user", f"Is it so? {HOSTILE}"),),
        f"base {HOSTILE}",
        f"<script>alert(1)</script> {HOSTILE}",
        "",
        0.7,
    )
    return Report(
        round=number,
        policy_id=f"policy{number + 1}",
        parent_id=f"policy{number}",
        constitution=f"rules 1.0.0 {HOSTILE}",
        constitution_hash="c0ffee",
        candidates={"candidates": 12, "duplicate": 1, "seconds": 2.5},
        examples=kind,
        num_examples=6,
        discarded={kind: 6, "tie": 1, "below_margin": 2},
        win_rates={"previous": win, "base": win},
        by_principle={"previous": {"kind": win, f"x{HOSTILE}": win}},
        kl=Kl(1.5 + number, 0.2, 0.05, 128),
        length_ratio=1.1 + 0.1 * number,
        behaviour={"base": looks, "previous": looks, "policy": looks},
        judges={"labelling": health, "evaluating": health},
        gate=Gate(accepted, f"{'accepted' if accepted else 'rejected'}: win rate {rate:.2f} {HOSTILE}"),
        samples=(sample, sample),
        seconds=report.stage_seconds(run, number),
    )
