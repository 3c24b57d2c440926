"""The judge stage against a straightforward loop that asks for free-form answers, on one engine; and a preview.

    python benchmarks/judge.py [--prompts 64] [--samples 4] [--repeats 3] [--model FOLDER]
    python benchmarks/judge.py --preview RUN     (a run of the pocket world: selfalign run pocket --set rounds=1)

Both judge the same comparisons in both orders under every principle, in the same words, with one vLLM engine in one
process, and take turns; the prefix cache is on, and emptied before each turn. Ours sends together what shares a prefix,
and reads the verdict off the first token. The peer sends comparisons in random order, lets the judge write N tokens,
and looks for the verdict in them; "peer, one token" leaves out the reasons. The pocket judge would end its answer at
once, so the peer's are held to N tokens (`ignore_eos`), as those of a model that explains itself would be. "marks by
pair" is the stage with marks around the texts that hang on the two answers too, and not on the conversation alone.

--preview counts the wall time of `selfalign constitution preview` on 200 pairs, from its start, with nothing known.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from unittest import mock

from selfalign import constitution as constitutions
from selfalign.config import EngineSettings, Generate, Judge
from selfalign.constitution import Constitution
from selfalign.engines import worker_environment
from selfalign.engines.vllm import VllmEngine
from selfalign.records import Candidate, Message, Prompt
from selfalign.stages import prompts as prompt_stage
from selfalign.stages.generate import generate
from selfalign.stages.judge import distinct, judge, make_nonce, render_pairwise, wording
from selfalign.stages.judge.cache import FILE

ROOT = Path(__file__).resolve().parents[1]
POCKET = ROOT / "selfalign/pocket/models"
SETTINGS = EngineSettings(backend="vllm", max_model_len=1024)
JUDGE = Judge(principles="all", cache=False)
SEED = 17
GOAL, PREVIEW_GOAL = 3.0, 20.0


@dataclass
class Counted:
    """What one turn took: verdicts, prompt tokens and those found in the prefix cache, and seconds."""

    verdicts: int = 0
    tokens: int = 0
    cached: int = 0
    seconds: float = 0.0


Case = tuple[Prompt, list[Candidate]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(POCKET / "judge"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--reasons", type=int, default=128, help="tokens of the peer's answers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--preview", type=Path, metavar="RUN")
    args = parser.parse_args()
    if args.preview:
        _preview(args.preview, args.repeats)
        return
    rules = constitutions.load(ROOT / "constitutions/pocket.yaml")
    cases = _cases(args.prompts, args.samples)
    engine = VllmEngine(args.model, SETTINGS)
    variants = {
        "selfalign stage": lambda: _stage(engine, rules, cases),
        "marks by pair": lambda: _marked_by_pair(engine, rules, cases),
        f"peer, {args.reasons} tokens": lambda: _peer(engine, rules, cases, args.reasons),
        "peer, one token": lambda: _peer(engine, rules, cases, 1),
    }
    _report(_measure(engine, variants, args.repeats))


def _cases(count: int, samples: int) -> list[Case]:
    """Prompts with answers of the pocket policy."""
    prompts = prompt_stage.load(str(ROOT / "prompts/train/pocket.jsonl"), "train")[:count]
    engine = VllmEngine(str(POCKET / "policy"), SETTINGS)
    settings = Generate(samples=samples, max_tokens=48)
    ((_, sampled),) = generate([(0, prompts)], engine, settings, policy_id="policy", seed=SEED)
    engine.close()
    return [(prompt, distinct(c for c in sampled if c.prompt_id == prompt.id)) for prompt in prompts]


def _measure(engine: VllmEngine, variants: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[Counted]]:
    """Take turns, after one that does not count."""
    seen: dict[str, list[Counted]] = {name: [] for name in variants}
    current = Counted()
    step = engine._engine.step

    def counting() -> list:
        outputs = step()
        for output in outputs:
            if output.finished:
                current.tokens += len(output.prompt_token_ids)
                current.cached += output.num_cached_tokens or 0
        return outputs

    engine._engine.step = counting
    for repeat in range(repeats + 1):
        for name, work in variants.items():
            engine._llm.reset_prefix_cache()
            current = Counted()
            started = time.perf_counter()
            current.verdicts = work()
            current.seconds = time.perf_counter() - started
            if repeat:
                seen[name].append(current)
    return seen


def _stage(engine: VllmEngine, rules: Constitution, cases: list[Case]) -> int:
    """The stage as a campaign runs it."""
    shards = ((i, [prompt], candidates) for i, (prompt, candidates) in enumerate(cases))
    return sum(len(judgments) for _, judgments in judge(shards, engine, rules, JUDGE, judge_id="judge", seed=SEED))


def _marked_by_pair(engine: VllmEngine, rules: Constitution, cases: list[Case]) -> int:
    with mock.patch.object(wording, "make_nonce", lambda *texts, beside=(): make_nonce(*texts, *beside)):
        return _stage(engine, rules, cases)


def _peer(engine: VllmEngine, rules: Constitution, cases: list[Case], tokens: int) -> int:
    """Every comparison by itself, in random order, and its answer parsed; what cannot be parsed counts all the same."""
    from vllm import SamplingParams

    texts = list(_questions(rules, cases))
    random.Random(SEED).shuffle(texts)
    inputs = [{"prompt_token_ids": engine._prompts.encode((Message("user", text),))} for text in texts]
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    outputs = engine._llm.generate(inputs, params, use_tqdm=False)
    return len([re.search(r"\b([AB])\b", output.outputs[0].text) for output in outputs])


def _questions(rules: Constitution, cases: list[Case]) -> Iterator[str]:
    for prompt, candidates in cases:
        for first, second in permutations(candidates, 2):
            for principle in rules.applicable(prompt):
                yield render_pairwise(prompt.messages, first.text, second.text, principle.comparison())


def _report(seen: dict[str, list[Counted]]) -> None:
    ours = statistics.median(turn.verdicts / turn.seconds for turn in seen["selfalign stage"])
    threads = os.environ.get("OMP_NUM_THREADS")
    print(f"{seen['selfalign stage'][0].verdicts} verdicts, {threads} threads, medians of turns")
    print(f"{'':20}{'verdicts/s':>12}{'prompt tokens':>15}{'of them cached':>16}{'ours is':>10}")
    for name, turns in seen.items():
        rate = statistics.median(turn.verdicts / turn.seconds for turn in turns)
        turn = turns[-1]
        share = turn.cached / turn.tokens
        print(f"{name:20}{rate:12.1f}{turn.tokens:15,}{share:16.1%}{f'{ours / rate:.2f} x':>10}")
    peer = next(name for name in seen if name.startswith("peer,"))
    ratio = ours / statistics.median(turn.verdicts / turn.seconds for turn in seen[peer])
    print(f"goal: {GOAL} x {peer}: {'met' if ratio >= GOAL else 'MISSED'}")


def _preview(run: Path, repeats: int) -> None:
    """Each turn in a folder of its own, where nothing is known yet."""
    rules = (run / "rounds/000/constitution.yaml").read_text(encoding="utf-8")
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(run, Path(folder) / "runs" / run.name)
            edited = Path(folder) / "edited.yaml"
            edited.write_text(rules.replace("that is polite", "that is rude").replace("be polite", "be rude"))
            command = [sys.executable, "-m", "selfalign", "constitution", "preview", run.name, "--pairs", "200"]
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "--constitution", edited], cwd=folder, capture_output=True, text=True, check=True
            )
            seconds.append(time.perf_counter() - started)
            assert (Path(folder) / "runs" / FILE).is_file()
    print(done.stdout, done.stderr.splitlines()[-1])
    median = statistics.median(seconds)
    verdict = "met" if median < PREVIEW_GOAL else "MISSED"
    print(f"preview of 200 pairs: {median:.1f} s, median of {repeats}; goal: under {PREVIEW_GOAL:.0f} s: {verdict}")


if __name__ == "__main__":
    if "--preview" not in sys.argv and "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | worker_environment(SETTINGS))
    main()
