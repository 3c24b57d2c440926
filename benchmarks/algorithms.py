"""Every algorithm on the pocket world, each with the same prompts, samples and ratings a round.

    python benchmarks/algorithms.py [--only sigmoid kto ...] [--rounds 2] [--seed 17] [--fresh]

Each line is a whole campaign through the command line: real vLLM, the pocket judge, training, evaluation. Gold is the
mean over fresh held-out prompts of what the checkers say (`pocket.checkers.gold_score`), which no judge takes part in;
its interval is 95%. KL, win rate and length are the campaign's own held-out report. Campaigns that are there already
are not run again (.benchmarks/algorithms); gold of all their policies is measured with one engine at the end.

The plot of gold against KL needs matplotlib; without it the table is all there is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".benchmarks" / "algorithms"
PLOT = ROOT / "benchmarks" / "algorithms.svg"
FREE = {"accept.win_rate_lower_bound": "null", "accept.max_kl": "null", "accept.max_length_ratio": "null"}
HARD = {"pairs.labels": "hard"}

# What a reward model learns, and how rollouts are made, is the recipe's; where DPO reads rewards, each is of its round.
REWARDS = {"reward_model.data": "last"}
ROLLOUTS = {"train.algorithm": "ppo", "train.schedule": "constant"}

# The settings in which each differs from the pocket recipe (beta 1, learning rate 2e-4, 3 epochs of 16 pairs).
METHODS: dict[str, dict[str, str]] = {
    "sigmoid": {},
    "hinge": {"train.loss": "hinge"},
    "ipo": {"train.loss": "ipo", "train.beta": "0.1"},
    "robust": {"train.loss": "robust", "train.label_smoothing": "0.1"},
    "exo": {"train.loss": "exo", "train.label_smoothing": "0.01"},
    "discopop": {"train.loss": "discopop", **HARD},
    "sigmoid_norm": {"train.loss": "sigmoid_norm", "train.beta": "10"},
    "nca": {"train.loss": "nca"},
    "bco (pairs)": {"train.loss": "bco"},
    "sppo_hard": {"train.loss": "sppo_hard", "train.beta": "0.1"},
    "aot": {"train.loss": "aot", **HARD},
    "apo_zero": {"train.loss": "apo_zero", **HARD},
    "apo_down": {"train.loss": "apo_down", **HARD},
    "kto (pairs)": {"train.loss": "kto", **HARD},
    "simpo": {"train.loss": "simpo", "train.beta": "4", "train.simpo_gamma": "2", "reference": "none"},
    "cpo": {"train.loss": "{cpo: 1, nll: 1}", "train.beta": "0.1", "reference": "none"},
    "orpo": {"train.loss": "orpo", "reference": "none"},
    "sigmoid + nll": {"train.loss": "{sigmoid: 1, nll: 0.2}"},
    "forward KL": {"train.f_divergence": "forward_kl"},
    "Jensen-Shannon": {"train.f_divergence": "js"},
    "alpha divergence": {"train.f_divergence": "alpha"},
    "LD-DPO": {"train.ld_alpha": "0.5"},
    "WPO": {"train.wpo": "true"},
    "kto": {"train.algorithm": "kto"},
    "bco": {"train.algorithm": "bco"},
    "sppo": {"train.algorithm": "sppo", "train.beta": "0.1"},
    "Plackett-Luce": {"train.algorithm": "ranking"},
    "RAFT": {"train.algorithm": "raft"},
    "SFT on gold": {"train.algorithm": "sft"},
    "SPIN on gold": {"pairs.strategy": "spin"},
    "RSO": {"pairs.strategy": "rso", "pairs.rso_beta": "1", "train.loss": "hinge"},
    "all pairs": {"pairs.strategy": "all", "pairs.max_per_prompt": "3", "train.epochs": "1"},
    "best-random": {"pairs.strategy": "best-random"},
    "margin-buckets": {"pairs.strategy": "margin-buckets", "train.epochs": "1"},
    "replay": {"replay.ratio": "0.5"},
    "averaged reference": {"reference": "ema"},
    "distilled reward": {"train.loss": "{sigmoid: 1, distill: 0.1}", **REWARDS},
    "reward weights": {"train.reward_weight": "true", **REWARDS},
    "PPO": ROLLOUTS,
    "RLOO": {**ROLLOUTS, "ppo.advantage": "rloo", "ppo.prompts": "32", "ppo.samples": "4"},
    "GRPO": {**ROLLOUTS, "ppo.advantage": "grpo", "ppo.prompts": "32", "ppo.samples": "4"},
    "REINFORCE++": {**ROLLOUTS, "ppo.advantage": "reinforce"},
    "d-RLAIF": {**ROLLOUTS, "ppo.reward": "judge"},
}


@dataclass(frozen=True)
class Point:
    """A policy: gold with the half width of its interval, and the report's numbers."""

    gold: float
    interval: float
    kl: float
    win_rate: float
    length: float
    seconds: float


def run_campaign(name: str, rounds: int, seed: int, fresh: bool) -> Path:
    """Run the campaign of a method, or go on with it; return the run's folder."""
    runs = WORK / f"seed{seed}-rounds{rounds}"
    folder = runs / slug(name)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    settings = {"name": slug(name), "rounds": str(rounds), "seed": str(seed), **FREE, **METHODS[name]}
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    started = time.monotonic()
    command = [sys.executable, "-m", "selfalign", "run", "pocket", "--display", "log", "--runs", str(runs), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: exit {done.returncode}\n{done.stderr[-2000:]}")
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return folder


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def measure_gold(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Behaviours of the base policy ("base") and of each round's ("METHOD/ROUND"), by one engine."""
    from selfalign.engines.hardware import worker_environment
    from selfalign.pocket import POLICY
    from selfalign.pocket.measure import ENGINE, measure

    os.environ.update(worker_environment(ENGINE))
    policies = {"base": POLICY}
    for name, folder in folders.items():
        for path in sorted(folder.glob("rounds/*/policy/config.json")):
            policies[f"{name}/{int(path.parts[-3])}"] = path.parent
    return measure(policies)


def points(folder: Path, name: str, gold: dict[str, dict[str, float]]) -> list[Point]:
    found = []
    for number, path in enumerate(sorted(folder.glob("rounds/*/report.json"))):
        report, behaviour = json.loads(path.read_text()), gold[f"{name}/{number}"]
        found.append(
            Point(
                gold=behaviour["gold"],
                interval=1.96 * behaviour["gold_error"],
                kl=report["kl"]["mean"],
                win_rate=report["win_rates"]["base"]["rate"],
                length=report["length_ratio"],
                seconds=sum(report["seconds"].values()),
            )
        )
    return found


def table(curves: dict[str, list[Point]], base: dict[str, float]) -> str:
    width = 1.96 * base["gold_error"]
    lines = [
        "| method | gold | gain over base | KL to base | win rate vs base | length | seconds a round |",
        "|---|---|---|---|---|---|---|",
        f"| base | {base['gold']:.3f} ± {width:.3f} | | 0 | | 1 | |",
    ]
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][-1].gold):
        last, seconds = curve[-1], sum(point.seconds for point in curve) / len(curve)
        gain, error = last.gold - base["gold"], math.hypot(last.interval, width)
        verdict = f"{gain:+.3f} ± {error:.3f}" + ("" if gain > error else " (not shown)")
        lines.append(
            f"| {name} | {last.gold:.3f} ± {last.interval:.3f} | {verdict} | {last.kl:.1f} | {last.win_rate:.3f} "
            f"| ×{last.length:.2f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def plot(curves: dict[str, list[Point]], base: dict[str, float]) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "selfalign", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    marks, colours = "os^Dv", pyplot.get_cmap("tab20").colors
    for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1].gold)):
        xs, ys = [0.0, *(point.kl for point in curve)], [base["gold"], *(point.gold for point in curve)]
        style: dict[str, Any] = {"color": colours[number % 20], "marker": marks[number // 8 % 5], "markersize": 4}
        axes.plot(xs, ys, linewidth=1, label=name, **style)
    axes.set_xlabel("KL to base, nats per response")
    axes.set_ylabel("gold score")
    axes.set_title("Pocket world: gold against KL, a point a round")
    axes.legend(fontsize=7, ncol=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(PLOT, bbox_inches="tight", metadata={"Date": None})
    print(f"plot: {PLOT.relative_to(ROOT)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(METHODS), default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--fresh", action="store_true", help="run campaigns again that are there already")
    args = parser.parse_args()
    folders = {name: run_campaign(name, args.rounds, args.seed, args.fresh) for name in args.only}
    gold = measure_gold(folders)
    curves = {name: points(folder, name, gold) for name, folder in folders.items()}
    print(table(curves, gold["base"]))
    if len(curves) == len(METHODS):
        plot(curves, gold["base"])


if __name__ == "__main__":
    main()
