"""Preference losses: pure functions of sequence log-probabilities; no model, no state. Most take B pairs to B losses.

Notation: for a prompt x with chosen answer w and rejected answer l,
    a = log pi(w|x) - log pi_ref(w|x),   c = log pi(l|x) - log pi_ref(l|x),   d = a - c,   z = beta d,
    L(t) = -log sigmoid(t).
All log-probabilities are sums over the tokens of an answer, in nats.

A soft label p is the probability that the chosen answer is the better one. Most losses are then the expectation
p loss(w > l) + (1 - p) loss(l > w). Where a paper gives p a meaning of its own (EXO, SPPO), that is used; where it has
none (`objective.HARD_LABELS_ONLY`), the configuration is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from selfalign.config import Train
from selfalign.objective import REFERENCE_FREE, FDivergence, LossName, loss_terms
from selfalign.training.kl import bounded_exp

_NOTHING = -1e9  # the reward of no answer: adds nothing to any sum of exponentials


@dataclass(frozen=True)
class PairLogps:
    """Sequence log-probabilities of B pairs, and the lengths of the answers in tokens; every field is [B]."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    @staticmethod
    def of(logps_2B: Tensor, reference_2B: Tensor, lengths_2B: Tensor) -> PairLogps:
        """From sequences pair by pair: chosen, rejected, chosen, rejected, ..."""
        sides = [side for flat in (logps_2B, reference_2B, lengths_2B) for side in flat.view(-1, 2).unbind(1)]
        return PairLogps(*sides)

    @property
    def chosen_log_ratio(self) -> Tensor:
        """a, [B]."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_log_ratio(self) -> Tensor:
        """c, [B]."""
        return self.rejected - self.reference_rejected

    @property
    def difference(self) -> Tensor:
        """d = a - c, [B]."""
        return self.chosen_log_ratio - self.rejected_log_ratio

    @property
    def margin(self) -> Tensor:
        """log pi(w|x) - log pi(l|x), [B]."""
        return self.chosen - self.rejected

    @property
    def reference_margin(self) -> Tensor:
        """log pi_ref(w|x) - log pi_ref(l|x), [B]."""
        return self.reference_chosen - self.reference_rejected

    @property
    def chosen_mean(self) -> Tensor:
        """Mean log-probability of a chosen token, [B]."""
        return self.chosen / self.chosen_lengths

    @property
    def rejected_mean(self) -> Tensor:
        """Mean log-probability of a rejected token, [B]."""
        return self.rejected / self.rejected_lengths

    def swap(self) -> PairLogps:
        """The same pairs with the opposite label."""
        return PairLogps(
            chosen=self.rejected,
            rejected=self.chosen,
            reference_chosen=self.reference_rejected,
            reference_rejected=self.reference_chosen,
            chosen_lengths=self.rejected_lengths,
            rejected_lengths=self.chosen_lengths,
        )


# Losses of the scaled difference z = beta d, [B] -> [B].


def sigmoid_loss(z: Tensor) -> Tensor:
    """DPO: L(z). Rafailov et al. 2023 (arXiv:2305.18290), eq. 7."""
    return -F.logsigmoid(z)


def hinge_loss(z: Tensor) -> Tensor:
    """max(0, 1 - z). RSO, Liu et al. 2023 (arXiv:2309.06657), eq. 8: the normalised hinge of SLiC."""
    return F.relu(1.0 - z)


def robust_loss(z: Tensor, epsilon: float) -> Tensor:
    """[(1 - e) L(z) - e L(-z)] / (1 - 2e). Chowdhury et al. 2024 (arXiv:2403.00409).

    Unbiased where labels are flipped with probability e < 1/2: (1 - e) robust(z) + e robust(-z) = L(z). It has no
    lower bound: as z grows it falls like -e z / (1 - 2e).
    """
    return ((1.0 - epsilon) * sigmoid_loss(z) - epsilon * sigmoid_loss(-z)) / (1.0 - 2.0 * epsilon)


def exo_loss(z: Tensor, p_chosen: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(z)) || Bernoulli(p)), 0 < p < 1. EXO, Ji et al. 2024 (arXiv:2402.00856).

    The paper's label is p = 1 - e; it is least at z = logit p.
    """
    log_yes, log_no = F.logsigmoid(z), F.logsigmoid(-z)
    return log_yes.exp() * (log_yes - p_chosen.log()) + log_no.exp() * (log_no - torch.log1p(-p_chosen))


def discopop_loss(z: Tensor, temperature: float) -> Tensor:
    """(1 - m) L(z) + m exp(-z), m = sigmoid(z / temperature). DiscoPOP, Lu et al. 2024 (arXiv:2406.08414)."""
    blend = torch.sigmoid(z / temperature)
    return (1.0 - blend) * sigmoid_loss(z) + blend * bounded_exp(-z)


def divergence_score(log_ratio: Tensor, divergence: FDivergence, alpha: float) -> Tensor:
    """f'(pi / pi_ref) up to a constant, from the log-ratio: what stands for a and c under another f-divergence. [B]

    reverse_kl: u;  forward_kl: -exp(-u);  js: log sigmoid(u);  alpha: exp((alpha - 1) u) / (alpha - 1), 0 < alpha < 1.
    f-DPO, Wang et al. 2023 (arXiv:2309.16240), table 1. alpha -> 1 is the reverse, alpha -> 0 the forward KL.
    """
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return -bounded_exp(-log_ratio)
    if divergence == "js":
        return F.logsigmoid(log_ratio)
    return bounded_exp((alpha - 1.0) * log_ratio) / (alpha - 1.0)


# Losses of pairs under the label "chosen is better", [B].


def ipo_loss(pairs: PairLogps, beta: float, *, length_average: bool = False) -> Tensor:
    """(d - 1 / (2 tau))^2 with tau = beta. Azar et al. 2023 (arXiv:2310.12036), eq. 17.

    The paper's log-ratios are of whole answers, hence sums. `length_average` divides each by its number of tokens,
    as some trainers do; 1 / (2 tau) is then a target in nats per token.
    """
    chosen, rejected = pairs.chosen_log_ratio, pairs.rejected_log_ratio
    if length_average:
        chosen, rejected = chosen / pairs.chosen_lengths, rejected / pairs.rejected_lengths
    return (chosen - rejected - 1.0 / (2.0 * beta)) ** 2


def sigmoid_norm_loss(pairs: PairLogps, beta: float) -> Tensor:
    """L(beta (a / |w| - c / |l|)): length-normalised DPO. Lambert et al. 2024 (Tulu 3, arXiv:2411.15124)."""
    chosen, rejected = pairs.chosen_log_ratio, pairs.rejected_log_ratio
    return sigmoid_loss(beta * (chosen / pairs.chosen_lengths - rejected / pairs.rejected_lengths))


def nca_loss(pairs: PairLogps, beta: float) -> Tensor:
    """L(beta a) + L(-beta a) / 2 + L(-beta c) / 2. NCA, Chen et al. 2024 (arXiv:2402.05369), for K = 2."""
    chosen, rejected = beta * pairs.chosen_log_ratio, beta * pairs.rejected_log_ratio
    return sigmoid_loss(chosen) + 0.5 * sigmoid_loss(-chosen) + 0.5 * sigmoid_loss(-rejected)


def bco_loss(pairs: PairLogps, beta: float, shift: Tensor | float = 0.0) -> Tensor:
    """L(beta a - delta) + L(delta - beta c). BCO, Jung et al. 2024 (arXiv:2404.04656).

    `shift` is delta, the running mean of the rewards beta a and beta c.
    """
    chosen, rejected = beta * pairs.chosen_log_ratio, beta * pairs.rejected_log_ratio
    return sigmoid_loss(chosen - shift) + sigmoid_loss(shift - rejected)


def sppo_hard_loss(pairs: PairLogps, p_chosen: Tensor, beta: float) -> Tensor:
    """(a - (p - 1/2) / beta)^2 + (c + (p - 1/2) / beta)^2. SPPO, Wu et al. 2024 (arXiv:2405.00675).

    eta = 1 / beta, and p stands for the paper's estimated win rate; "hard" is p = 1. The paper halves the sum.
    """
    target = (p_chosen - 0.5) / beta
    return (pairs.chosen_log_ratio - target) ** 2 + (pairs.rejected_log_ratio + target) ** 2


def aot_loss(pairs: PairLogps, beta: float, label_smoothing: float = 0.0, partner: Tensor | None = None) -> Tensor:
    """DPO between sorted margins: L(beta (m_i - partner_i)), m the policy's margins, partners by `aot_partners`. [B]

    AOT, Melnyk et al. 2024 (arXiv:2406.05882): the policy's margins are to dominate the reference's as
    distributions over the batch. Without partners the pairs at hand are the batch. Row i is about the policy on pair
    i, but no longer about the reference on it.
    """
    z = beta * (pairs.margin - (aot_partners(pairs.margin, pairs.reference_margin) if partner is None else partner))
    return (1.0 - label_smoothing) * sigmoid_loss(z) + label_smoothing * sigmoid_loss(-z)


@torch.no_grad()
def aot_partners(margin_B: Tensor, reference_margin_B: Tensor) -> Tensor:
    """The reference margin that has the rank of each policy margin: optimal transport in one dimension. [B]

    Melnyk et al. 2024 (arXiv:2406.05882). The ranks have no gradient, so that sum_i f(m_i - partner_i) has the value
    and the gradient of sum_k f(sort(m)_k - sort(m_ref)_k), and may be taken apart into micro-batches.
    """
    return torch.empty_like(reference_margin_B).scatter_(0, margin_B.argsort(), reference_margin_B.sort().values)


def apo_zero_loss(pairs: PairLogps, beta: float) -> Tensor:
    """1 - sigmoid(beta a) + sigmoid(beta c). APO-zero, D'Oosterlinck et al. 2024 (arXiv:2408.06266)."""
    return 1.0 - torch.sigmoid(beta * pairs.chosen_log_ratio) + torch.sigmoid(beta * pairs.rejected_log_ratio)


def apo_down_loss(pairs: PairLogps, beta: float) -> Tensor:
    """sigmoid(beta a) + 1 - sigmoid(z). APO-down, D'Oosterlinck et al. 2024 (arXiv:2408.06266).

    For a policy that is better than even the chosen answers: both become less likely, the rejected one more so.
    """
    return torch.sigmoid(beta * pairs.chosen_log_ratio) + 1.0 - torch.sigmoid(beta * pairs.difference)


def kto_loss(
    pairs: PairLogps, beta: float, divergence: Tensor | float, desirable: float = 1.0, undesirable: float = 1.0
) -> Tensor:
    """The mean of `kto_answer_loss` over both answers: the chosen one is desirable, the rejected one undesirable."""
    wanted = kto_answer_loss(pairs.chosen_log_ratio, True, beta, divergence, desirable, undesirable)
    unwanted = kto_answer_loss(pairs.rejected_log_ratio, False, beta, divergence, desirable, undesirable)
    return 0.5 * (wanted + unwanted)


def simpo_loss(pairs: PairLogps, beta: float, gamma: float) -> Tensor:
    """L(beta (log pi(w) / |w| - log pi(l) / |l|) - gamma): no reference.

    SimPO, Meng et al. 2024 (arXiv:2405.14734), eq. 6.
    """
    return sigmoid_loss(beta * (pairs.chosen_mean - pairs.rejected_mean) - gamma)


def cpo_loss(pairs: PairLogps, beta: float) -> Tensor:
    """L(beta (log pi(w) - log pi(l))), no reference. CPO, Xu et al. 2024 (arXiv:2401.08417).

    The paper adds the likelihood of the chosen answer: {cpo: 1, nll: 1}.
    """
    return sigmoid_loss(beta * (pairs.chosen - pairs.rejected))


def odds_ratio_loss(pairs: PairLogps) -> Tensor:
    """L(log odds(w) - log odds(l)), odds = P / (1 - P) of the mean token: no reference.

    ORPO, Hong et al. 2024 (arXiv:2403.07691), eq. 7; the paper's whole loss is NLL + lambda times this.
    """
    return sigmoid_loss(_log_odds(pairs.chosen_mean) - _log_odds(pairs.rejected_mean))


def nll_loss(pairs: PairLogps) -> Tensor:
    """-log pi(w) / |w|: the mean over each answer, as in iterative RPO, Pang et al. 2024 (arXiv:2404.19733), eq. 1."""
    return -pairs.chosen_mean


def distill_loss(pairs: PairLogps, beta: float, reward_gap: Tensor) -> Tensor:
    """(beta d - (r_w - r_l))^2: the policy's own margin is to be that of a reward model, `reward_gap`.

    Reward model distillation, Fisch et al. 2024 (arXiv:2405.19316).
    """
    return (beta * pairs.difference - reward_gap) ** 2


def _log_odds(log_p: Tensor) -> Tensor:
    """log(P / (1 - P)) from log P < 0; log1mexp by the branch that does not cancel."""
    log_p = log_p.clamp(max=-1e-7)
    near_zero = torch.log(-torch.expm1(log_p.clamp(min=-0.6931)))
    far = torch.log1p(-torch.exp(log_p.clamp(max=-0.6931)))
    return log_p - torch.where(log_p > -0.6931, near_zero, far)


# Losses of answers by themselves: S answers in, S losses out; u is an answer's log-ratio.


def kto_answer_loss(
    log_ratio_S: Tensor,
    desirable_S: Tensor | bool,
    beta: float,
    divergence: Tensor | float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """lambda_D (1 - sigmoid(beta (u - z0))) if desirable, else lambda_U (1 - sigmoid(beta (z0 - u))).

    KTO, Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8. `divergence` is z0, see `kto_divergence`; no gradient flows
    through it.
    """
    lead = beta * (log_ratio_S - divergence)
    wanted, unwanted = desirable_weight * torch.sigmoid(-lead), undesirable_weight * torch.sigmoid(lead)
    return torch.where(torch.as_tensor(desirable_S, device=lead.device), wanted, unwanted)


def kto_divergence(mismatched_log_ratio_S: Tensor) -> Tensor:
    """z0 = max(0, mean log-ratio of answers under prompts that they do not belong to): KTO's estimate of the KL. []"""
    return mismatched_log_ratio_S.mean().clamp(min=0.0).detach()


def bco_answer_loss(log_ratio_S: Tensor, desirable_S: Tensor, beta: float, shift: Tensor | float) -> Tensor:
    """L(beta u - delta) if desirable, else L(delta - beta u). BCO, Jung et al. 2024 (arXiv:2404.04656).

    `shift` is delta, the running mean of the rewards beta u.
    """
    lead = beta * log_ratio_S - shift
    return sigmoid_loss(torch.where(desirable_S, lead, -lead))


def sppo_loss(log_ratio_S: Tensor, win_rate_S: Tensor, beta: float) -> Tensor:
    """(u - eta (P - 1/2))^2 with eta = 1 / beta and P the answer's win rate among the answers to its prompt.

    SPPO, Wu et al. 2024 (arXiv:2405.00675): at its least the policy is proportional to pi_ref exp(eta P).
    """
    return (log_ratio_S - (win_rate_S - 0.5) / beta) ** 2


# Losses of whole rankings: B rankings in, B losses out.


def plackett_luce_loss(log_ratio_S: Tensor, sizes_B: Tensor, beta: float) -> Tensor:
    """-sum_k [r_k - log sum_(j >= k) exp r_j], r = beta u of the answers, best first: DPO over k answers. [B]

    Rafailov et al. 2023 (arXiv:2305.18290), appendix A.3. Of two answers this is `sigmoid_loss`; where all r are the
    same it is log k!. `log_ratio` holds the rankings one after the other, `sizes` answers each.
    """
    groups = torch.repeat_interleave(torch.arange(len(sizes_B), device=sizes_B.device), sizes_B)
    places = torch.arange(len(groups), device=groups.device) - (sizes_B.cumsum(0) - sizes_B)[groups]
    rewards = log_ratio_S.new_full((len(sizes_B), int(sizes_B.max())), _NOTHING)
    rewards = rewards.index_put((groups, places), beta * log_ratio_S)
    left = torch.logcumsumexp(rewards.flip(1), 1).flip(1)  # log of the sum over what is not yet placed
    there = places.new_zeros(rewards.shape, dtype=torch.bool).index_put((groups, places), places == places)
    return torch.where(there, left - rewards, 0.0).sum(1)


# Labels, and the settings of a campaign.


def smooth_labels(p_chosen: Tensor, label_smoothing: float) -> Tensor:
    """The probability that the chosen answer is better, if labels are flipped with probability epsilon.

    p (1 - epsilon) + (1 - p) epsilon; with p = 1 this is conservative DPO (Mitchell 2023, cDPO, eq. 3).
    """
    return p_chosen * (1.0 - label_smoothing) + (1.0 - p_chosen) * label_smoothing


def pair_loss(
    name: LossName,
    pairs: PairLogps,
    p_chosen: Tensor,
    settings: Train | None = None,
    *,
    shift: Tensor | float = 0.0,
    reward_gap: Tensor | None = None,
    partner: Tensor | None = None,
) -> Tensor:
    """The loss of each pair under its soft label, by the settings of `train`. [B]

    `shift` is what answers are compared with one by one: BCO's delta, KTO's z0. `reward_gap` is what a reward model
    makes of each pair; only "distill" reads it. `partner` [B] is what "aot" compares each pair's margin with.

    For "sigmoid" this is the cross-entropy to the label, least at z = logit p; for "ipo" least at
    d = (2 p - 1) / (2 tau); for "hinge" at z = 1 where p > 1/2.
    """
    settings = settings or Train()
    beta, epsilon = settings.beta, settings.label_smoothing
    if name == "exo":
        return exo_loss(beta * _difference(pairs, settings), smooth_labels(p_chosen, epsilon))
    if name == "sppo_hard":
        return sppo_hard_loss(pairs, p_chosen, beta)
    if name == "aot":
        return aot_loss(pairs, beta, epsilon, partner)
    if name == "nll":
        return nll_loss(pairs)
    if name == "distill":
        return distill_loss(pairs, beta, torch.zeros_like(p_chosen) if reward_gap is None else reward_gap)
    if name == "orpo":
        return nll_loss(pairs) + beta * _expected(odds_ratio_loss, pairs, p_chosen)
    if name == "robust":  # its epsilon is inside the loss
        return _expected(lambda pair: hard_loss(name, pair, settings), pairs, p_chosen)
    p = smooth_labels(p_chosen, epsilon)
    return _expected(lambda pair: hard_loss(name, pair, settings, shift), pairs, p)


def hard_loss(name: LossName, pairs: PairLogps, settings: Train, shift: Tensor | float = 0.0) -> Tensor:
    """The loss of each pair if its chosen answer is better for certain. [B]"""
    beta = settings.beta
    if name in ("sigmoid", "hinge", "robust", "discopop"):
        return _difference_loss(name, beta * _difference(pairs, settings), settings)
    if name == "ipo":
        return ipo_loss(pairs, beta, length_average=settings.length_average)
    if name == "sigmoid_norm":
        return sigmoid_norm_loss(pairs, beta)
    if name == "nca":
        return nca_loss(pairs, beta)
    if name == "bco":
        return bco_loss(pairs, beta, shift)
    if name == "kto":
        return kto_loss(pairs, beta, shift, settings.desirable_weight, settings.undesirable_weight)
    if name == "apo_zero":
        return apo_zero_loss(pairs, beta)
    if name == "apo_down":
        return apo_down_loss(pairs, beta)
    if name == "simpo":
        return simpo_loss(pairs, beta, settings.simpo_gamma)
    if name == "cpo":
        return cpo_loss(pairs, beta)
    raise ValueError(f"train.loss: no loss of single pairs is named {name!r}")


def _difference_loss(name: LossName, z: Tensor, settings: Train) -> Tensor:
    if name == "hinge":
        return hinge_loss(z)
    if name == "robust":
        return robust_loss(z, settings.label_smoothing)
    if name == "discopop":
        return discopop_loss(z, settings.discopop_temperature)
    return sigmoid_loss(z)


def _difference(pairs: PairLogps, settings: Train) -> Tensor:
    scores = (pairs.chosen_log_ratio, pairs.rejected_log_ratio)
    chosen, rejected = (divergence_score(u, settings.f_divergence, settings.f_alpha) for u in scores)
    return chosen - rejected


def _expected(loss: Callable[[PairLogps], Tensor], pairs: PairLogps, p_chosen: Tensor) -> Tensor:
    """p loss(w > l) + (1 - p) loss(l > w). [B]"""
    return p_chosen * loss(pairs) + (1.0 - p_chosen) * loss(pairs.swap())


def value_at_reference(settings: Train, p_chosen: Tensor, reward_gap: Tensor | None = None) -> Tensor:
    """The loss of pairs with these labels while the policy is still its own reference, without reference-free terms.

    For "sigmoid" log 2, whatever the label. [B]
    """
    zero, one = torch.zeros_like(p_chosen), torch.ones_like(p_chosen)
    start = PairLogps(zero, zero, zero, zero, one, one)
    terms = {name: weight for name, weight in loss_terms(settings).items() if name not in REFERENCE_FREE}
    losses = {name: pair_loss(name, start, p_chosen, settings, reward_gap=reward_gap) for name in terms}
    return sum((weight * losses[name] for name, weight in terms.items()), zero)


# What changes the log-probabilities or weighs the pairs.


def length_desensitised(token_logps_N: Tensor, lengths_2B: Tensor, alpha: float) -> Tensor:
    """Log-probabilities whose tail past the shorter answer's length counts alpha. [N]

    LD-DPO, Liu et al. 2024 (arXiv:2409.06411): log p(first l tokens) + alpha log p(rest), where l is the length
    of the shorter answer of the pair. `lengths`: pair by pair; tokens in the same order.
    """
    shared_B = lengths_2B.view(-1, 2).amin(1)
    shared_N = torch.repeat_interleave(shared_B.repeat_interleave(2), lengths_2B)
    starts_N = torch.repeat_interleave(lengths_2B.cumsum(0) - lengths_2B, lengths_2B)
    position_N = torch.arange(len(token_logps_N), device=token_logps_N.device) - starts_N
    return torch.where(position_N < shared_N, token_logps_N, alpha * token_logps_N)


@torch.no_grad()
def on_policy_weights(token_logps_N: Tensor, log_collision_N: Tensor, lengths_2B: Tensor) -> Tensor:
    """w(chosen) w(rejected), w = exp(mean_t[log p_t - log sum_v p_v^2]): how likely the policy is to say this. [B]

    WPO, Zhou et al. 2024 (arXiv:2406.11827), with the paper's alignment of weights: a token drawn
    from the policy itself has weight 1 on average. No gradient flows through it.
    """
    ratios = torch.segment_reduce(token_logps_N - log_collision_N, "mean", lengths=lengths_2B)
    return torch.exp(ratios.view(-1, 2).sum(1))
