"""The objectives of training by name: what each needs, what it can use, and which settings make no sense together.

The formulas are in `training.losses`; this module knows their names, so that a configuration can be refused without
torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from selfalign.config import Campaign, Pairs, Ppo, Train

LossName = Literal[
    "sigmoid", "hinge", "ipo", "robust", "exo", "discopop", "sigmoid_norm", "nca", "bco", "sppo_hard",
    "aot", "apo_zero", "apo_down", "kto", "simpo", "cpo", "orpo", "nll", "distill",
]  # fmt: skip
FDivergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

Problem = tuple[str, str, str]  # the setting, what and why, the fix

OF_THE_DIFFERENCE = frozenset({"sigmoid", "hinge", "robust", "exo", "discopop"})
DEMONSTRATED = frozenset({"sft", "raft"})  # algorithms that learn answers by heart, with no other to compare them with
REFERENCE_FREE = frozenset({"simpo", "cpo", "orpo", "nll"})
HARD_LABELS_ONLY = {
    "kto": "it takes each answer by itself, as desirable or not",
    "aot": "it compares sorted margins, no longer pairs",
    "apo_zero": "it says which way each answer is to go, not how sure the label is",
    "apo_down": "it says which way each answer is to go, not how sure the label is",
    "discopop": "it was found on hard labels and has no meaning for others",
}
SMOOTHABLE = frozenset({"sigmoid", "hinge", "ipo", "robust", "exo", "sigmoid_norm", "aot", "simpo", "cpo"})
NEEDS_SMOOTHING = frozenset({"robust", "exo"})
SOME_PREFERENCE = "Write a loss of pairs beside it, such as {sigmoid: 1, nll: 0.2}."
KTO_BALANCE = (1.0, 4.0 / 3.0)  # of desirable over undesirable weight; Ethayarajh et al. 2024
OWN_SETTINGS: dict[str, str] = {  # settings that one loss alone reads
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
    "length_average": "ipo",
    "simpo_gamma": "simpo",
    "discopop_temperature": "discopop",
}
OF_PAIRS = (
    "loss", "label_smoothing", "length_average", "simpo_gamma", "discopop_temperature", "desirable_weight",
    "undesirable_weight", "f_divergence", "f_alpha", "ld_alpha", "wpo", "reward_weight",
)  # fmt: skip


def loss_terms(train: Train) -> Mapping[LossName, float]:
    """The terms of the loss and their weights."""
    return train.loss if isinstance(train.loss, dict) else {train.loss: 1.0}


def needs_reference(train: Train) -> bool:
    if train.algorithm == "dpo":
        return not loss_terms(train).keys() <= REFERENCE_FREE
    return train.algorithm not in DEMONSTRATED


def needs_rewards(train: Train, ppo: Ppo) -> bool:
    """Whether a reward model has to be trained first."""
    if train.algorithm == "dpo":
        return "distill" in loss_terms(train) or train.reward_weight
    return train.algorithm == "ppo" and not judge_rewards(train, ppo)


def judge_rewards(train: Train, ppo: Ppo) -> bool:
    """Whether rollouts are rewarded by the judge itself: then nothing is made of the round's prompts beforehand.

    Direct RLAIF: Lee et al. 2023 (arXiv:2309.00267).
    """
    return train.algorithm == "ppo" and ppo.reward == "judge"


def hands_rewards(settings: Campaign) -> bool:
    """Whether rollouts come to the trainer with their rewards, which it would else find itself."""
    judged = judge_rewards(settings.train, settings.ppo)
    return judged or (settings.train.algorithm == "ppo" and settings.reward_model.scorer == "engine")


def contradictions(train: Train, pairs: Pairs, reference: Any) -> Iterator[Problem]:
    """Settings of the objective that are each allowed but make no sense together."""
    terms = loss_terms(train)
    if not terms or any(weight <= 0 for weight in terms.values()):
        yield "train.loss", "every term of the loss needs a weight above 0", "Such as {sigmoid: 1, nll: 0.2}."
        return
    if train.batch_size == 1 and (train.algorithm == "kto" or "kto" in terms):
        why = "kto measures its divergence as a mean over the batch, and of one example that is noise"
        yield "train.batch_size", why, "Set it to 8 or more."
    if train.algorithm != "dpo":
        yield from _without_pairs(train, pairs)
    elif terms.keys() == {"nll"}:
        yield "train.loss", "nll alone prefers nothing: it never looks at the rejected answer", SOME_PREFERENCE
    yield from _reference(terms, train, reference)
    if train.algorithm == "dpo":
        yield from _labels(terms, train, pairs)
        yield from _unused(terms, train)


def _without_pairs(train: Train, pairs: Pairs) -> Iterator[Problem]:
    """What only losses of pairs read."""
    defaults, others = type(train)(), type(pairs)()
    for setting in OF_PAIRS:
        weights = setting.endswith("desirable_weight") and train.algorithm == "kto"
        if getattr(train, setting) != getattr(defaults, setting) and not weights:
            why = f"{train.algorithm} has a loss of its own, which does not read it"
            yield f"train.{setting}", why, "Remove it, or set `train: {algorithm: dpo}`."
    for setting in ("strategy", "max_per_prompt", "length_balance", "labels") if train.algorithm != "ppo" else ():
        if getattr(pairs, setting) != getattr(others, setting):
            why = f"{train.algorithm} makes no pairs"
            yield f"pairs.{setting}", why, "Remove it, or set `train: {algorithm: dpo}`."


def _labels(terms: Mapping[str, float], train: Train, pairs: Pairs) -> Iterator[Problem]:
    for name in HARD_LABELS_ONLY.keys() & terms.keys():
        if pairs.labels == "soft":
            why = f"{name} has no use for soft labels: {HARD_LABELS_ONLY[name]}"
            yield "train.loss", why, "Set `pairs: {labels: hard}`."
    if train.label_smoothing > 0 and not terms.keys() & SMOOTHABLE:
        why = f"label smoothing means nothing to {', '.join(terms)}"
        yield "train.label_smoothing", why, "Remove it."
    for name in NEEDS_SMOOTHING & terms.keys():
        if train.label_smoothing == 0:
            why = f"{name} needs train.label_smoothing above 0: the share of labels taken to be wrong"
            yield "train.label_smoothing", why, "Set it, to 0.001 for exo as in its paper, or 0.1 for robust."


def _reference(terms: Mapping[str, float], train: Train, reference: Any) -> Iterator[Problem]:
    named = ", ".join(terms) if train.algorithm == "dpo" else train.algorithm
    if not needs_reference(train) and reference not in ("previous", "none"):
        why = f"{named} is reference-free: no reference ({reference}) is ever asked"
        yield "reference", why, "Remove it, or write `reference: none`."
    if needs_reference(train) and reference == "none":
        named = ", ".join(name for name in terms if name not in REFERENCE_FREE) if train.algorithm == "dpo" else named
        yield "reference", f"{named} is regularised toward a reference", "Write previous, base, or a round's number."


def _unused(terms: Mapping[str, float], train: Train) -> Iterator[Problem]:
    defaults = type(train)()
    for setting, name in OWN_SETTINGS.items():
        if getattr(train, setting) != getattr(defaults, setting) and name not in terms:
            yield f"train.{setting}", f"only the loss {name} reads it", f"Remove it, or set `train: {{loss: {name}}}`."
    referenced = terms.keys() - REFERENCE_FREE
    if train.f_divergence != "reverse_kl" and not (referenced and referenced <= OF_THE_DIFFERENCE):
        why = f"another f-divergence has a meaning for {', '.join(sorted(OF_THE_DIFFERENCE))} alone"
        yield "train.f_divergence", why, "Remove it, or choose one of these losses."
    if train.f_alpha != defaults.f_alpha and train.f_divergence != "alpha":
        yield "train.f_alpha", "only the alpha divergence reads it", "Remove it, or set f_divergence: alpha."
    if train.ld_alpha is not None and not (referenced and referenced.isdisjoint({"sigmoid_norm"})):
        why = "LD-DPO weighs the tails of summed log-ratios, which this loss does not have"
        yield "train.ld_alpha", why, "Remove it, or choose a loss of sums, such as sigmoid."
    balance = train.desirable_weight / train.undesirable_weight
    if "kto" in terms and not KTO_BALANCE[0] <= balance <= KTO_BALANCE[1]:
        why = f"desirable over undesirable weight is {balance:.3g}; as many of each, it should lie between 1 and 4/3"
        yield "train.desirable_weight", why, "Set both to 1, or desirable_weight to 1.33."
    if {"kto", "bco"} <= terms.keys():
        why = "kto compares each answer with a divergence, bco with a mean reward: there is no sum of the two"
        yield "train.loss", why, "Keep one of them."
    for setting in ("wpo", "reward_weight"):
        if getattr(train, setting) and "aot" in terms:
            yield f"train.{setting}", "aot sorts margins over the batch, so that no pair keeps a weight", "Remove it."
