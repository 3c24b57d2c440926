"""Losses against hand values, finite differences, stationary points, and optima known in closed form."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from selfalign.config import Train
from selfalign.objective import HARD_LABELS_ONLY, REFERENCE_FREE, LossName
from selfalign.training.losses import (
    PairLogps,
    aot_loss,
    aot_partners,
    divergence_score,
    exo_loss,
    ipo_loss,
    kto_divergence,
    length_desensitised,
    odds_ratio_loss,
    on_policy_weights,
    pair_loss,
    robust_loss,
    sigmoid_loss,
    smooth_labels,
    value_at_reference,
)

LOSSES: tuple[LossName, ...] = ("sigmoid", "ipo", "hinge")
EXPECTED_LOSSES: tuple[LossName, ...] = (
    "sigmoid", "hinge", "ipo", "robust", "discopop", "sigmoid_norm", "nca", "bco", "apo_zero", "apo_down", "simpo",
    "cpo",
)  # fmt: skip
EVERY_LOSS: tuple[LossName, ...] = get_args(LossName)


def settings_of(name: LossName, beta: float = 0.1, smoothing: float | None = None, **others: Any) -> Train:
    """`smoothing` None: what the paper of a loss that needs some takes, else none."""
    usual = {"exo": 1e-3, "robust": 0.1}.get(name, 0.0)
    return Train(loss=name, beta=beta, label_smoothing=usual if smoothing is None else smoothing, **others)


def pairs_of(a: Tensor | float, c: Tensor | float) -> PairLogps:
    """Pairs with log-ratios a and c over answers of 4 and 8 tokens."""
    a, c = torch.as_tensor(a, dtype=torch.float64).reshape(-1), torch.as_tensor(c, dtype=torch.float64).reshape(-1)
    reference = torch.full_like(a, -7.0)
    return PairLogps(a - 7.0, c - 7.0, reference, reference, torch.full_like(a, 4.0), torch.full_like(a, 8.0))


def loss_of(
    name: LossName, a: float, c: float, p: float = 1.0, beta: float = 0.1, smoothing: float | None = None
) -> float:
    label = torch.tensor([p], dtype=torch.float64)
    return pair_loss(name, pairs_of(a, c), label, settings_of(name, beta, smoothing)).item()


def start_value(name: LossName, p: float = 1.0) -> float:
    return value_at_reference(settings_of(name), torch.tensor([p], dtype=torch.float64)).item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", 0.693147), ("robust", 0.693147), ("aot", 0.693147), ("hinge", 1.0), ("ipo", 25.0),
        ("exo", 2.761231), ("nca", 1.386294), ("bco", 1.386294), ("sppo_hard", 50.0), ("apo_zero", 1.0),
        ("apo_down", 1.0), ("discopop", 0.846574), ("kto", 0.5), ("sigmoid_norm", 0.693147),
    ],
)  # fmt: skip
def test_value_at_zero_difference(name: LossName, expected: float) -> None:
    assert loss_of(name, 0.0, 0.0) == pytest.approx(expected, abs=1e-6)
    assert start_value(name) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "name", sorted(set(EVERY_LOSS) - REFERENCE_FREE - set(HARD_LABELS_ONLY) - {"exo", "sppo_hard"})
)
@pytest.mark.parametrize("p", [0.5, 0.7, 1.0])
def test_value_at_zero_difference_is_the_same_for_soft_labels(name: LossName, p: float) -> None:
    assert loss_of(name, 0.0, 0.0, p) == pytest.approx(start_value(name, p), abs=1e-12)
    assert start_value(name, p) == pytest.approx(start_value(name), abs=1e-12)


def test_reference_free_terms_have_no_value_at_the_reference() -> None:
    p = torch.ones(3, dtype=torch.float64)
    assert value_at_reference(Train(loss="simpo"), p).tolist() == [0.0] * 3
    mixed = value_at_reference(Train(loss={"sigmoid": 2.0, "nll": 0.5}), p)
    assert mixed.tolist() == pytest.approx([2 * math.log(2)] * 3)


@pytest.mark.parametrize(("name", "expected"), [
        ("sigmoid", 0.554355), ("hinge", 0.7), ("ipo", 4.0), ("robust", 0.516855), ("bco", 1.242536),
        ("sigmoid_norm", 0.662385),
    ],
)  # fmt: skip
def test_worked_point(name: LossName, expected: float) -> None:
    assert loss_of(name, 2.0, -1.0) == pytest.approx(expected, abs=1e-6)


def test_worked_point_of_length_averaged_ipo() -> None:
    assert ipo_loss(pairs_of(2.0, -1.0), 0.1, length_average=True).item() == pytest.approx(19.140625, abs=1e-9)


def test_worked_point_of_conservative_dpo() -> None:
    assert loss_of("sigmoid", 2.0, -1.0, smoothing=0.1) == pytest.approx(0.584355, abs=1e-6)


def test_smoothing_a_hard_label_is_a_soft_label() -> None:
    assert loss_of("sigmoid", 2.0, -1.0, smoothing=0.1) == pytest.approx(loss_of("sigmoid", 2.0, -1.0, p=0.9))
    assert smooth_labels(torch.tensor(0.8), 0.1).item() == pytest.approx(0.74)


@pytest.mark.parametrize("name", EXPECTED_LOSSES)
def test_a_swapped_pair_with_the_opposite_label_has_the_same_loss(name: LossName) -> None:
    pairs, p = pairs_of(0.8, -0.3), torch.tensor([0.7], dtype=torch.float64)
    swapped = pair_loss(name, pairs.swap(), 1 - p, settings_of(name))
    assert pair_loss(name, pairs, p, settings_of(name)).item() == pytest.approx(swapped.item(), abs=1e-12)


@pytest.mark.parametrize("name", sorted(set(EVERY_LOSS) - {"orpo"}))
def test_gradients_by_finite_differences(name: LossName) -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    p = torch.rand(6, generator=generator, dtype=torch.float64)

    def loss(a: Tensor, c: Tensor) -> Tensor:
        lengths = torch.ones_like(a)
        zero = torch.zeros_like(a)
        return pair_loss(name, PairLogps(a, c, zero, zero, lengths, lengths), p, settings_of(name, 0.3, 0.05))

    assert torch.autograd.gradcheck(loss, (a, c))


@pytest.mark.parametrize("p", [0.6, 0.9, 0.3])
@pytest.mark.parametrize("name", LOSSES)
def test_stationary_points_of_soft_labels(name: LossName, p: float) -> None:
    beta = 0.5
    expected = {
        "sigmoid": math.log(p / (1 - p)) / beta,
        "ipo": (2 * p - 1) / (2 * beta),
        "hinge": math.copysign(1.0, p - 0.5) / beta,
    }[name]
    grid = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    losses = pair_loss(name, pairs_of(grid, torch.zeros_like(grid)), torch.full_like(grid, p), settings_of(name, beta))
    assert grid[losses.argmin()].item() == pytest.approx(expected, abs=1e-3)


def test_conservative_dpo_is_least_at_the_logit_of_its_smoothing() -> None:
    grid = torch.linspace(0, 4, 40001, dtype=torch.float64)
    ones = torch.ones_like(grid)
    losses = pair_loss("sigmoid", pairs_of(grid, torch.zeros_like(grid)), ones, Train(beta=1.0, label_smoothing=0.1))
    assert grid[losses.argmin()].item() == pytest.approx(2.1972, abs=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_many_pairs_equal_a_naive_loop(name: LossName) -> None:
    generator = torch.Generator().manual_seed(1)
    a, c, p = (torch.rand(32, generator=generator, dtype=torch.float64) * 4 - 2 for _ in range(3))
    p = torch.sigmoid(p)
    together = pair_loss(name, pairs_of(a, c), p, settings_of(name, 0.7, 0.1))
    for i in range(32):
        q = 0.9 * p[i].item() + 0.1 * (1 - p[i].item())
        d = a[i].item() - c[i].item()
        hard = {
            "sigmoid": lambda d: math.log1p(math.exp(-0.7 * d)),
            "hinge": lambda d: max(0.0, 1 - 0.7 * d),
            "ipo": lambda d: (d - 1 / 1.4) ** 2,
        }[name]
        assert together[i].item() == pytest.approx(q * hard(d) + (1 - q) * hard(-d), rel=1e-12)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.loss"):
        pair_loss("nope", pairs_of(0.0, 0.0), torch.ones(1))  # type: ignore[arg-type]


# Losses with a formula or a label of their own -----------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_an_unbiased_loss_undoes_flipped_labels() -> None:
    z = torch.linspace(-5, 5, 41, dtype=torch.float64)
    for epsilon in (0.05, 0.2, 0.4):
        mean = (1 - epsilon) * robust_loss(z, epsilon) + epsilon * robust_loss(-z, epsilon)
        assert torch.allclose(mean, sigmoid_loss(z), atol=1e-12)


@pytest.mark.parametrize(("p", "least"), [(1 - 1e-3, 6.9068), (0.9, math.log(9.0)), (0.3, math.log(3 / 7))])
def test_exo_is_least_at_the_logit_of_its_label(p: float, least: float) -> None:
    grid = torch.linspace(-10, 10, 200001, dtype=torch.float64)
    losses = exo_loss(grid, torch.full_like(grid, p))
    assert grid[losses.argmin()].item() == pytest.approx(least, abs=1e-3)
    assert losses.min().item() == pytest.approx(0.0, abs=1e-8)


def test_nca_is_least_at_log_two_over_beta() -> None:
    grid = torch.linspace(0, 20, 20001, dtype=torch.float64)
    losses = pair_loss("nca", pairs_of(grid, torch.full_like(grid, -50.0)), torch.ones_like(grid), settings_of("nca"))
    assert 0.1 * grid[losses.argmin()].item() == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("p", [1.0, 0.8, 0.5])
def test_sppo_takes_the_label_as_the_win_rate(p: float) -> None:
    eta = 10.0
    by_hand = (2.0 - eta * (p - 0.5)) ** 2 + (-1.0 - eta * (0.5 - p)) ** 2
    assert loss_of("sppo_hard", 2.0, -1.0, p) == pytest.approx(by_hand)


def test_bco_is_shifted_by_the_mean_reward() -> None:
    found = pair_loss("bco", pairs_of(2.0, -1.0), torch.ones(1), settings_of("bco"), shift=0.05).item()
    by_hand = -math.log(sigmoid(0.2 - 0.05)) - math.log(sigmoid(0.1 + 0.05))
    assert found == pytest.approx(by_hand)


def test_kto_weighs_each_answer_against_the_divergence() -> None:
    settings = settings_of("kto", desirable_weight=1.2, undesirable_weight=0.9)
    found = pair_loss("kto", pairs_of(2.0, -1.0), torch.ones(1), settings, shift=0.5).item()
    by_hand = 0.5 * (1.2 * (1 - sigmoid(0.1 * (2.0 - 0.5))) + 0.9 * (1 - sigmoid(0.1 * (0.5 + 1.0))))
    assert found == pytest.approx(by_hand)


def test_the_divergence_of_kto_is_a_mean_and_never_negative() -> None:
    ratios = torch.tensor([0.4, 0.3, -0.1, 0.2], requires_grad=True)
    found = kto_divergence(ratios)
    assert found.item() == pytest.approx(0.2) and not found.requires_grad
    assert kto_divergence(-ratios).item() == 0.0


def test_aot_compares_sorted_margins() -> None:
    policy, reference = [3.0, -1.0, 0.5], [0.2, 0.9, -0.4]
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    pairs = PairLogps(torch.tensor(policy).double(), zeros, torch.tensor(reference).double(), zeros, ones, ones)
    found = pair_loss("aot", pairs, ones, settings_of("aot", 0.5))
    by_hand = [-math.log(sigmoid(0.5 * (p - r))) for p, r in zip(policy, [0.9, -0.4, 0.2], strict=True)]
    assert found.tolist() == pytest.approx(by_hand)


def test_aot_may_be_taken_apart_once_every_pair_has_its_partner() -> None:
    """Value and gradient are those of the sort over all pairs, ties included."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    policy[3] = policy[5]
    policy, zeros = policy.requires_grad_(), torch.zeros(7, dtype=torch.float64)
    naive = sigmoid_loss(0.5 * (policy.sort().values - reference.sort().values)).sum()
    partner = aot_partners(policy, reference)
    parts = [
        aot_loss(
            PairLogps(policy[part], zeros[part], reference[part], zeros[part], zeros, zeros), 0.5, 0.0, partner[part]
        )
        for part in (slice(0, 2), slice(2, 7))
    ]
    torch.testing.assert_close(torch.cat(parts).sum(), naive)
    ours, theirs = (torch.autograd.grad(loss, policy)[0] for loss in (torch.cat(parts).sum(), naive))
    torch.testing.assert_close(ours.sort().values, theirs.sort().values)  # which of two equal margins is first is open


def test_apo_and_discopop_by_hand() -> None:
    assert loss_of("apo_zero", 2.0, -1.0) == pytest.approx(1 - sigmoid(0.2) + sigmoid(-0.1))
    assert loss_of("apo_down", 2.0, -1.0) == pytest.approx(sigmoid(0.2) + 1 - sigmoid(0.3))
    blend = sigmoid(0.3 / 0.05)
    assert loss_of("discopop", 2.0, -1.0) == pytest.approx(
        -(1 - blend) * math.log(sigmoid(0.3)) + blend * math.exp(-0.3)
    )


def test_reference_free_losses_by_hand() -> None:
    """Answers of 4 and 8 tokens with log-probabilities -5 and -8, whatever the reference says of them."""
    pairs = pairs_of(2.0, -1.0)
    one, chosen, rejected = torch.ones(1, dtype=torch.float64), -5.0 / 4, -8.0 / 8
    simpo = pair_loss("simpo", pairs, one, settings_of("simpo", 2.0, simpo_gamma=1.0)).item()
    assert simpo == pytest.approx(-math.log(sigmoid(2.0 * (chosen - rejected) - 1.0)))
    assert loss_of("cpo", 2.0, -1.0) == pytest.approx(-math.log(sigmoid(0.1 * 3.0)))
    assert loss_of("nll", 2.0, -1.0) == pytest.approx(-chosen)
    odds = math.log(math.exp(chosen) / (1 - math.exp(chosen))) - math.log(math.exp(rejected) / (1 - math.exp(rejected)))
    assert odds_ratio_loss(pairs).item() == pytest.approx(-math.log(sigmoid(odds)))
    assert loss_of("orpo", 2.0, -1.0) == pytest.approx(-chosen - 0.1 * math.log(sigmoid(odds)))


@pytest.mark.parametrize("log_p", [-1e-9, -1e-4, -0.6, -0.7, -3.0, -40.0])
def test_odds_stay_finite_from_certain_to_hopeless(log_p: float) -> None:
    mean = torch.tensor([log_p], requires_grad=True)
    one = torch.ones(1)
    loss = odds_ratio_loss(PairLogps(mean, mean.detach() - 1.0, one, one, one, one))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(mean.grad).all()


@pytest.mark.parametrize(
    ("divergence", "alpha", "expected"),
    [
        ("reverse_kl", 0.5, 3.0), ("forward_kl", 0.5, -math.exp(-2) + math.exp(1)),
        ("js", 0.5, math.log(sigmoid(2.0)) - math.log(sigmoid(-1.0))),
        ("alpha", 0.5, -2 * (math.exp(-1.0) - math.exp(0.5))),
    ],
)  # fmt: skip
def test_f_divergences_by_hand(divergence: Any, alpha: float, expected: float) -> None:
    settings = Train(f_divergence=divergence, f_alpha=alpha)
    found = pair_loss("sigmoid", pairs_of(2.0, -1.0), torch.ones(1, dtype=torch.float64), settings).item()
    assert found == pytest.approx(-math.log(sigmoid(0.1 * expected)))


def test_the_alpha_divergence_lies_between_the_two_kls() -> None:
    u = torch.linspace(-3, 3, 13, dtype=torch.float64)
    near_one, near_zero = (divergence_score(u, "alpha", alpha) for alpha in (1 - 1e-6, 1e-6))
    assert torch.allclose(near_one - near_one[6], u, atol=1e-4)
    assert torch.allclose(near_zero, divergence_score(u, "forward_kl", 0.5), atol=1e-4)


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_answers_far_from_the_reference_still_pull(divergence: str) -> None:
    far = torch.tensor([-300.0, 40.0], requires_grad=True)
    score = divergence_score(far, divergence, 0.5)
    score.sum().backward()
    assert torch.isfinite(score).all() and torch.isfinite(far.grad).all()
    assert far.grad[0] > 0


def test_terms_are_summed_by_their_weights() -> None:
    pairs, p = pairs_of(2.0, -1.0), torch.tensor([0.9], dtype=torch.float64)
    settings = Train(loss={"sigmoid": 1.0, "nll": 0.2})
    terms = [weight * pair_loss(name, pairs, p, settings).item() for name, weight in settings.loss.items()]
    assert sum(terms) == pytest.approx(loss_of("sigmoid", 2.0, -1.0, 0.9) + 0.2 * 5.0 / 4)


def test_tails_past_the_shorter_answer_count_alpha() -> None:
    tokens, lengths = -torch.arange(1.0, 10.0), torch.tensor([2, 4, 1, 2])  # two pairs
    found = length_desensitised(tokens, lengths, 0.25)
    assert found.tolist() == [-1, -2, -3, -4, -5 / 4, -6 / 4, -7, -8, -9 / 4]
    assert torch.equal(length_desensitised(tokens, lengths, 1.0), tokens)


def test_what_the_policy_would_say_weighs_most() -> None:
    """Over a vocabulary of 3, p = (.5, .3, .2), sum p^2 = .38: pairs of the tokens (.5) and (.5, .3), (.2) and (.2)."""
    tokens, collision = torch.tensor([0.5, 0.5, 0.3, 0.2, 0.2]).log(), torch.full((5,), 0.38).log()
    found = on_policy_weights(tokens, collision, torch.tensor([1, 2, 1, 1]))
    by_hand = [0.5 / 0.38 * math.sqrt(0.5 * 0.3) / 0.38, 0.2 / 0.38 * 0.2 / 0.38]
    assert found.tolist() == pytest.approx(by_hand)


# Tabular policies --------------------------------------------------------------------------------------------------


def minimise(
    name: LossName,
    reference: Tensor,
    winners: Tensor,
    losers: Tensor,
    p: Tensor,
    beta: float,
    start: Tensor | None = None,
) -> Tensor:
    """The policy over a few actions that has the least mean loss on pairs of actions, by L-BFGS from `start`."""
    theta = (reference if start is None else start).log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)
    ones = torch.ones(len(winners), dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logp, ref = theta.log_softmax(0), reference.log()
        pairs = PairLogps(logp[winners], logp[losers], ref[winners], ref[losers], ones, ones)
        loss = pair_loss(name, pairs, p, settings_of(name, beta)).mean()
        loss.backward()
        return loss

    for _ in range(10):
        optimizer.step(closure)
    return theta.detach().softmax(0)


REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
ORDERED = torch.tensor(list(permutations(range(3), 2)))


def dpo_optimum(reference: Tensor, beta: float, start: Tensor | None = None) -> Tensor:
    """DPO on all ordered pairs, labelled with their Bradley-Terry probabilities."""
    winners, losers = ORDERED.T
    labels = torch.sigmoid(REWARD[winners] - REWARD[losers])
    return minimise("sigmoid", reference, winners, losers, labels, beta, start)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.5, (0.732165, 0.247720, 0.020115)), (1.0, (0.471098, 0.433268, 0.095634))],
)
def test_dpo_reaches_the_kl_regularised_optimum(beta: float, expected: tuple[float, ...]) -> None:
    closed_form = REFERENCE * torch.exp(REWARD / beta)
    found = dpo_optimum(REFERENCE, beta)
    torch.testing.assert_close(found, closed_form / closed_form.sum(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-6, rtol=0)


def test_four_rounds_with_a_refreshed_reference_are_one_with_a_quarter_of_beta() -> None:
    policy = REFERENCE
    for _ in range(4):
        policy = dpo_optimum(policy, 2.0)
    torch.testing.assert_close(policy, dpo_optimum(REFERENCE, 0.5), atol=1e-6, rtol=0)


def test_a_fixed_reference_is_a_fixed_point_after_one_round() -> None:
    first = dpo_optimum(REFERENCE, 2.0)
    torch.testing.assert_close(dpo_optimum(REFERENCE, 2.0, start=first), first, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0.1, (0.96437, 0.03440, 0.00123)), (0.5, (0.56274, 0.28892, 0.14834)), (1.0, (0.44844, 0.32132, 0.23024))],
)
def test_ipo_bandit(tau: float, expected: tuple[float, ...]) -> None:
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    winners, losers = torch.tensor([[0, 1], [1, 2], [0, 2]]).T
    found = minimise("ipo", uniform, winners, losers, torch.ones(3, dtype=torch.float64), tau)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.993307), (0.5, 0.731059), (1.0, 0.622459), (10.0, 0.512497)])
def test_ipo_bandit_of_two_actions(tau: float, expected: float) -> None:
    uniform = torch.full((2,), 0.5, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    found = minimise("ipo", uniform, torch.tensor([0]), torch.tensor([1]), one, tau)
    assert found[0].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_a_preference_cycle_leaves_the_policy_uniform(name: LossName) -> None:
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    winners, losers = torch.tensor([[0, 1], [1, 2], [2, 0]]).T
    found = minimise(name, uniform, winners, losers, torch.ones(3, dtype=torch.float64), 0.5)
    torch.testing.assert_close(found, uniform, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("p", "gap"), [(0.6, 0.405465), (0.8, 1.386294), (0.597558, 0.395300), (0.841816, 1.671803)])
def test_a_soft_label_caps_the_fitted_gap(p: float, gap: float) -> None:
    """Labels clamped to [0.4, 0.6] or [0.2, 0.8], or averaged over both orders, fit a gap of logit p and no more."""
    uniform = torch.full((2,), 0.5, dtype=torch.float64)
    label = torch.tensor([p], dtype=torch.float64)
    found = minimise("sigmoid", uniform, torch.tensor([0]), torch.tensor([1]), label, 1.0)
    assert (found[0].log() - found[1].log()).item() == pytest.approx(gap, abs=1e-5)
