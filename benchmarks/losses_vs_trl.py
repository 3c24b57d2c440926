"""Losses and gradients on the same pairs and the same model: ours against the real trainers of TRL.

    python benchmarks/losses_vs_trl.py

A random Llama and a reference near it are written to disk. In TRL's own environment (see trl_harness.py) each trainer
makes its data set, its batch, its loss and its gradients; here the same pairs go through our layout, scorer and losses.
Everything is float32. A loss is the same if it is within LOSS_TOLERANCE, and the gradients of all weights within
GRADIENT_TOLERANCE of the largest.

Where TRL means something else, the case says what, and computes TRL's meaning from our parts: the reading is then
proven, not guessed. Where TRL has no figure, because it raises or is not finite, ours must be finite. Exit status 1 if
a loss differs for no known reason, if a reason no longer explains TRL's figures, or if a known difference is gone.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl_harness import SPECIAL, TRL_VERSION, WORK, ask_child, trl_python, write_tokenizer

if TYPE_CHECKING:
    from selfalign.training.losses import PairLogps

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 2e-4  # both relative; the loss's also absolute
FOLDER = WORK / "losses"
VOCABULARY, NUM_PAIRS, SEED = 96, 12, 5
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
INITIAL_SPREAD, REFERENCE_NOISE = 0.2, 0.02  # so that answers have log-ratios of a few nats
FAR = 20.0  # times the logits: log-ratios of hundreds of nats
BETA = 0.5
UNWANTED_EVERY = 3  # of the answers that have no partner


Answer = tuple[list[int], list[int], bool]  # the prompt, the answer, and whether it is good


@dataclass(frozen=True)
class Case:
    """One loss: the settings of both sides; where they are known to differ, why, and TRL's meaning in our terms.

    `because` without `meaning`: TRL has no figure.
    """

    name: str
    trainer: str
    theirs: dict[str, Any]
    ours: dict[str, Any]
    because: str = ""
    meaning: Callable[[Ours], Tensor] | None = None
    policy: str = "policy"  # or "far": from its reference, as late in training on long answers


def dpo(name: str, loss: str, own: str, theirs: dict[str, Any] | None = None, **ours: Any) -> Case:
    """A case of DPOTrainer; `theirs` is only what is not called the same on both sides."""
    same = {key: value for key, value in ours.items() if key in ("label_smoothing", "ld_alpha")}
    return Case(name, "dpo", {"loss_type": [loss], **same, **(theirs or {})}, {"loss": own, **ours})


def divergence(theirs: str, own: str) -> Case:
    return dpo(f"sigmoid, {own}", "sigmoid", "sigmoid", {"f_divergence_type": theirs}, f_divergence=own)


CASES = (
    dpo("sigmoid", "sigmoid", "sigmoid"),
    dpo("hinge", "hinge", "hinge"),
    dpo("ipo, length_average", "ipo", "ipo", length_average=True),
    dpo("robust 0.1", "robust", "robust", label_smoothing=0.1),
    dpo("exo 0.001", "exo_pair", "exo", label_smoothing=1e-3),
    dpo("nca", "nca_pair", "nca"),
    dpo("bco, first step", "bco_pair", "bco"),
    dpo("sppo_hard", "sppo_hard", "sppo_hard"),
    dpo("aot", "aot", "aot"),
    dpo("aot, smoothing 0.1", "aot", "aot", label_smoothing=0.1),
    dpo("apo_zero", "apo_zero", "apo_zero"),
    dpo("apo_down", "apo_down", "apo_down"),
    dpo("discopop", "discopop", "discopop"),
    dpo("sigmoid_norm", "sigmoid_norm", "sigmoid_norm"),
    divergence("forward_kl", "forward_kl"),
    divergence("js_divergence", "js"),
    divergence("alpha_divergence", "alpha"),
    dpo("sigmoid, ld_alpha 0.5", "sigmoid", "sigmoid", ld_alpha=0.5),
    dpo("sigmoid, wpo", "sigmoid", "sigmoid", {"use_weighting": True}, wpo=True),
    Case("kto, pairs", "kto", {}, {"loss": "kto"}),
    Case(
        "kto, answers, 1.2 to 0.8",
        "kto unpaired",
        {"desirable_weight": 1.2, "undesirable_weight": 0.8},
        {"algorithm": "kto", "desirable_weight": 1.2, "undesirable_weight": 0.8},
    ),
    Case(
        "simpo",
        "cpo",
        {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.3},
        {"loss": "simpo", "simpo_gamma": 0.3},
    ),
    Case("cpo, no nll", "cpo", {"cpo_alpha": 0.0}, {"loss": "cpo"}),
    Case(
        "cpo, no nll, smoothing 0.1",
        "cpo",
        {"cpo_alpha": 0.0, "label_smoothing": 0.1},
        {"loss": "cpo", "label_smoothing": 0.1},
    ),
    replace(
        dpo("sigmoid, smoothing 0.1", "sigmoid", "sigmoid", label_smoothing=0.1),
        because="TRL ignores smoothing but in robust, exo and aot",
        meaning=lambda own: own.mean(loss="sigmoid"),
    ),
    replace(
        dpo("ipo, sums", "ipo", "ipo"),
        because="TRL always averages over tokens",
        meaning=lambda own: own.mean(loss="ipo", length_average=True),
    ),
    replace(
        dpo("nll (sft)", "sft", "nll"),
        because="TRL's mean is over the tokens of the micro-batch: long answers count more",
        meaning=lambda own: own.token_nll(),
    ),
    Case(
        "simpo, cpo_alpha left at 1",
        "cpo",
        {"loss_type": "simpo", "simpo_gamma": 0.3},
        {"loss": "simpo", "simpo_gamma": 0.3},
        "TRL adds nll, over tokens",
        lambda own: own.mean(loss="simpo", simpo_gamma=0.3) + own.token_nll(),
    ),
    Case(
        "cpo + nll",
        "cpo",
        {},
        {"loss": {"cpo": 1.0, "nll": 1.0}},
        "nll over tokens",
        lambda own: own.mean(loss="cpo") + own.token_nll(),
    ),
    Case(
        "orpo",
        "orpo",
        {},
        {"loss": "orpo"},
        "nll over tokens, those of the prompts included",
        lambda own: BETA * own.odds_ratio() + own.token_nll(with_prompts=True),
    ),
    Case(
        "kto, pairs, batches of 4",
        "kto",
        {"per_device_train_batch_size": 4},
        {"loss": "kto"},
        "TRL's batch is of chosen answers alone: it puts 1,000 of them before their rejected ones",
        lambda own: own.kto([(prompt, chosen, True) for prompt, chosen, _ in own.rows[:4]]),
    ),
    Case(
        "wpo with sft",
        "dpo",
        {"loss_type": ["sigmoid", "sft"], "use_weighting": True},
        {"loss": {"sigmoid": 1.0, "nll": 1.0}, "wpo": True},
        "it raises, as it multiplies an expanded tensor in place",
    ),
    replace(divergence("forward_kl", "forward_kl"), name="forward_kl, far", because="it overflows", policy="far"),
    replace(dpo("discopop", "discopop", "discopop"), name="discopop, far", because="it overflows", policy="far"),
)


@dataclass(frozen=True)
class Result:
    """A loss and its gradient by all weights, in the order of their names; not finite where TRL raised."""

    loss: float
    gradient: Tensor

    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and bool(self.gradient.isfinite().all())


# The comparing side --------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().child:
        run_trl()
        return 0
    write_inputs()
    theirs = ask_trl()
    own = {name: Ours(FOLDER, name) for name in ("policy", "far")}
    pairs = own["policy"].pairs()
    ratios = torch.cat([pairs.chosen_log_ratio, pairs.rejected_log_ratio])
    print(f"TRL {TRL_VERSION}; {NUM_PAIRS} pairs, log-ratios from {ratios.min():.1f} to {ratios.max():.1f} nats\n")
    print(f"{'loss':28}{'TRL':>11}{'ours':>11}{'|difference|':>14}{'gradients':>11}  verdict")
    wrong = [case.name for case in CASES if not compare(case, theirs[case.name], own[case.policy])]
    print("\ngradients: the largest difference of any weight's, as a share of the largest gradient")
    print("unexplained: " + (", ".join(wrong) or "none"))
    return 1 if wrong else 0


def compare(case: Case, theirs: Result, own: Ours) -> bool:
    """Print a line of the table; return whether it is as expected."""
    ours = own.result(own.mean(**case.ours))
    loss, gradient = differences(theirs, ours)
    expected, verdict = judge(case, theirs, ours, own)
    print(f"{case.name:28}{theirs.loss:11.6f}{ours.loss:11.6f}{loss:14.1e}{gradient:11.1e}  {verdict}")
    return expected


def judge(case: Case, theirs: Result, ours: Result, own: Ours) -> tuple[bool, str]:
    """Whether this is as expected, and what to say."""
    if agree(theirs, ours):
        return not case.because, "same"
    if not case.because:
        return False, "differs for no known reason"
    if case.meaning is None:
        return not theirs.is_finite() and ours.is_finite(), f"TRL has none: {case.because}"
    if not agree(theirs, own.result(case.meaning(own))):
        return False, f"differs, but this does not explain it: {case.because}"
    return True, f"differs: {case.because}"


def agree(one: Result, other: Result) -> bool:
    loss, gradient = differences(one, other)
    return loss <= LOSS_TOLERANCE * max(1.0, abs(one.loss)) and gradient <= GRADIENT_TOLERANCE


def differences(one: Result, other: Result) -> tuple[float, float]:
    largest = one.gradient.abs().max().item()
    return abs(one.loss - other.loss), (one.gradient - other.gradient).abs().max().item() / largest


def write_inputs() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.manual_seed(SEED)
    config = LlamaConfig(**SMALL, **SPECIAL, vocab_size=VOCABULARY, initializer_range=INITIAL_SPREAD)
    model = LlamaForCausalLM(config)
    model.save_pretrained(FOLDER / "policy")
    with torch.no_grad():
        model.lm_head.weight.mul_(FAR)
        model.save_pretrained(FOLDER / "far")
        model.lm_head.weight.div_(FAR)
        for weight in model.parameters():
            weight.add_(REFERENCE_NOISE * torch.randn_like(weight))
    model.save_pretrained(FOLDER / "reference")
    write_tokenizer(FOLDER, VOCABULARY)
    draw = random.Random(SEED)

    def words(low: int, high: int) -> list[int]:
        return [draw.randrange(5, VOCABULARY) for _ in range(draw.randint(low, high))]

    rows = [[[1, *words(2, 6)], [*words(1, 12), 2], [*words(1, 12), 2]] for _ in range(NUM_PAIRS)]
    (FOLDER / "pairs.json").write_text(json.dumps(rows))


def ask_trl() -> dict[str, Result]:
    losses = ask_child(trl_python(), __file__, ["--child"], torch.get_num_threads())
    gradients = load_file(FOLDER / "trl.safetensors")
    return {name: Result(loss, gradients[name]) for name, loss in losses.items()}


class Ours:
    """The pairs by our layout, scorer and losses."""

    def __init__(self, folder: Path, policy: str) -> None:
        from selfalign.training.model import Scorer, load_model

        self.rows = json.loads((folder / "pairs.json").read_text())
        self.policy, self.reference = (
            Scorer(load_model(str(folder / name), torch.float32)) for name in (policy, "reference")
        )

    def result(self, loss: Tensor) -> Result:
        self.policy.zero_grad()
        loss.backward()
        return Result(loss.item(), flat_gradient(self.policy.whole))

    def mean(self, **settings: Any) -> Tensor:
        """The mean over pairs, or answers, of what these settings of `train` ask for."""
        from selfalign.config import Train
        from selfalign.objective import loss_terms
        from selfalign.training.losses import pair_loss

        train = Train(beta=BETA, **settings)
        if train.algorithm == "kto":
            return self.kto(unpaired(self.rows), train.desirable_weight, train.undesirable_weight)
        pairs = self.pairs(train.ld_alpha)
        shift = self.divergence(self.groups) if train.loss == "kto" else 0.0
        label = torch.ones(NUM_PAIRS)
        losses = [
            weight * pair_loss(name, pairs, label, train, shift=shift) for name, weight in loss_terms(train).items()
        ]
        weights = self.wpo() if train.wpo else 1.0
        return (weights * sum(losses)).mean()

    @cached_property
    def groups(self) -> Any:
        from selfalign.training.dataset import Group, GroupDataset

        return GroupDataset([Group.pair(str(number), *row) for number, row in enumerate(self.rows)])

    def batch(self, groups: Any) -> Any:
        import numpy as np

        from selfalign.training.batches import collate

        return collate(groups, [np.arange(len(groups))], "shared", self.policy.attention)

    def logps(self, groups: Any, ld_alpha: float | None = None) -> tuple[Tensor, Tensor]:
        """log pi and log pi_ref of every answer. [M] each"""
        from selfalign.training.reference import answer_logps

        batch = self.batch(groups)
        with torch.no_grad():
            reference = answer_logps(self.reference(batch), batch, ld_alpha)
        return answer_logps(self.policy(batch), batch, ld_alpha), reference

    def pairs(self, ld_alpha: float | None = None) -> PairLogps:
        from selfalign.training.losses import PairLogps

        return PairLogps.of(*self.logps(self.groups, ld_alpha), self.batch(self.groups).lengths)

    def wpo(self) -> Tensor:
        from selfalign.training.losses import on_policy_weights

        batch = self.batch(self.groups)
        return on_policy_weights(*self.policy(batch, with_collision=True), batch.lengths)

    def odds_ratio(self) -> Tensor:
        from selfalign.training.losses import odds_ratio_loss

        return odds_ratio_loss(self.pairs()).mean()

    def kto(self, rows: list[Answer], *weights: float) -> Tensor:
        from selfalign.training.losses import kto_answer_loss

        groups = singles([(prompt, answer) for prompt, answer, _ in rows])
        policy, reference = self.logps(groups)
        good = torch.tensor([good for *_, good in rows])
        return kto_answer_loss(policy - reference, good, BETA, self.divergence(groups), *weights).mean()

    def divergence(self, groups: Any) -> Tensor:
        from selfalign.training.losses import kto_divergence

        policy, reference = self.logps(groups.mismatched(1024))
        return kto_divergence(policy - reference)

    def token_nll(self, *, with_prompts: bool = False) -> Tensor:
        """The mean over all tokens of the chosen answers, on demand with those of their prompts but the first. []"""
        cuts = [1 if with_prompts else len(prompt) for prompt, *_ in self.rows]
        whole = [prompt + chosen for prompt, chosen, _ in self.rows]
        parts = [(tokens[:cut], tokens[cut:]) for tokens, cut in zip(whole, cuts, strict=True)]
        return -self.policy(self.batch(singles(parts))).mean()


def singles(rows: list[tuple[list[int], list[int]]]) -> Any:
    """Prompts with one answer each."""
    from selfalign.training.dataset import Group, GroupDataset

    return GroupDataset([Group(str(number), prompt, (answer,), (1.0,)) for number, (prompt, answer) in enumerate(rows)])


def unpaired(rows: list[list[list[int]]]) -> list[Answer]:
    """One answer of each pair."""
    return [
        (prompt, rejected if number % UNWANTED_EVERY == 0 else chosen, number % UNWANTED_EVERY != 0)
        for number, (prompt, chosen, rejected) in enumerate(rows)
    ]


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """[number of weights]"""
    named = sorted(model.named_parameters())
    return torch.cat([weight.grad.flatten() for _, weight in named]).clone()


# The side of TRL, in its own environment -----------------------------------------------------------------------------


def run_trl() -> None:
    warnings.simplefilter("ignore")
    results = {case.name: trl_result(case) for case in CASES}
    save_file({name: result.gradient for name, result in results.items()}, FOLDER / "trl.safetensors")
    print("\n" + json.dumps({name: result.loss for name, result in results.items()}))


def trl_result(case: Case) -> Result:
    """One batch of all pairs through the trainer's own data set, collator, loss and backward pass."""
    trainer = make_trainer(case)
    with suppress(RuntimeError):  # then there is no figure
        return batch_result(trainer)
    return Result(math.nan, torch.full((1,), math.nan))


def batch_result(trainer: Any) -> Result:
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return Result(loss.item(), flat_gradient(trainer.model))


def make_trainer(case: Case) -> Any:
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    disable_caching()
    disable_progress_bars()
    config, trainer = {
        "dpo": (DPOConfig, DPOTrainer),
        "kto": (KTOConfig, KTOTrainer),
        "kto unpaired": (KTOConfig, KTOTrainer),
        "cpo": (CPOConfig, CPOTrainer),
        "orpo": (ORPOConfig, ORPOTrainer),
    }[case.trainer]
    settings = {"beta": BETA, "per_device_train_batch_size": 2 * NUM_PAIRS, "max_length": 1024, **case.theirs}
    args = config(
        output_dir=str(FOLDER / "out"),
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=case.trainer not in ("cpo", "orpo"),
        **settings,
    )
    policy, reference = (
        LlamaForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32) for name in (case.policy, "reference")
    )
    referenced = {} if case.trainer in ("cpo", "orpo") else {"ref_model": reference}
    return trainer(
        model=policy,
        **referenced,
        args=args,
        train_dataset=Dataset.from_list(rows_for_trl(case.trainer)),
        processing_class=AutoTokenizer.from_pretrained(FOLDER),
    )


def rows_for_trl(trainer: str) -> list[dict[str, Any]]:
    names = ["<pad>", "<s>", "<end>", "<user>", "<assistant>", *(f"w{i}" for i in range(5, VOCABULARY))]

    def text(tokens: list[int]) -> str:
        return "".join(f" {names[token]}" for token in tokens)

    rows = json.loads((FOLDER / "pairs.json").read_text())
    if trainer == "kto unpaired":
        return [{"prompt": text(p), "completion": text(answer), "label": good} for p, answer, good in unpaired(rows)]
    return [{"prompt": text(p), "chosen": text(chosen), "rejected": text(rejected)} for p, chosen, rejected in rows]


if __name__ == "__main__":
    sys.exit(main())
