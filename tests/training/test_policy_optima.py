"""PPO, RLOO, GRPO and REINFORCE++ on tabular policies, built from the pure functions alone, reach optima known exactly.

Three answers with pi_ref = (0.2, 0.5, 0.3) and scores (1, 0, -1). The optimum of score - beta KL(pi || pi_ref) is
pi_ref exp(score / beta) / Z. Where tokens matter the answers are ragged: one token, or one of two after a first.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selfalign.training.advantages import gae, group_normalised, leave_one_out, returns_to_go, whiten
from selfalign.training.kl import Estimator, kl_estimates
from selfalign.training.ppo_losses import answer_mean, grpo_loss, policy_loss, token_mean, value_loss
from selfalign.training.rewards import penalised_scores, token_rewards
from selfalign.training.segments import spread, sums

REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
SCORES = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
OPTIMA = {0.5: (0.732165, 0.247720, 0.020115), 1.0: (0.471098, 0.433268, 0.095634), 0.1: (0.999887, 0.000113, 0.0)}

# Tokens 0, 1: the first of an answer, "stop" and "go on"; tokens 2, 3: the second. Answers: 0 | 1 2 | 1 3.
STEPS = torch.tensor([[0, -1], [1, 2], [1, 3]])
STATES = torch.tensor([0, 0, 1, 1])  # what each token is drawn from
REFERENCE_LOGITS = torch.tensor([[0.2, 0.8], [0.625, 0.375]], dtype=torch.float64).log()


class Batch:
    """Answers drawn from a policy over ragged answers, their tokens laid flat."""

    def __init__(self, logits: Tensor, size: int, generator: torch.Generator) -> None:
        self.answers = torch.multinomial(answer_probabilities(logits), size, replacement=True, generator=generator)
        steps = STEPS[self.answers]
        self.tokens, self.lengths = steps[steps >= 0], (steps >= 0).sum(1)
        self.old, self.reference = self.logprobs(logits).detach(), self.logprobs(REFERENCE_LOGITS)
        self.kl, self.scores = kl_estimates(self.old, self.reference, "k1"), SCORES[self.answers]

    def logprobs(self, logits: Tensor) -> Tensor:
        """[N]"""
        return logits.log_softmax(1).reshape(-1)[self.tokens]


def answer_probabilities(logits: Tensor) -> Tensor:
    p = logits.detach().log_softmax(1).exp()
    return torch.stack([p[0, 0], p[0, 1] * p[1, 0], p[0, 1] * p[1, 1]])


def minimise(losses: Callable[[int], Callable[[], Tensor]], parameters: list[Tensor], steps: int, epochs: int) -> None:
    """Adam at a rate that falls to 0; `losses` samples a batch and gives the loss of it, to be taken `epochs` times."""
    optimizer = torch.optim.Adam(parameters, lr=0.1, eps=1e-5)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        loss = losses(step)
        for _ in range(epochs):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()


def ppo(beta: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits, values = REFERENCE_LOGITS.clone().requires_grad_(), torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def losses(_: int) -> Callable[[], Tensor]:
        batch = Batch(logits, 512, generator)
        states, rewards = STATES[batch.tokens], token_rewards(batch.scores, batch.kl, batch.lengths, beta)
        old_values = values.detach()[states]
        advantages, returns = gae(rewards, old_values, batch.lengths, gamma=1.0, lam=0.95)
        white = whiten(advantages)
        return lambda: token_mean(
            policy_loss(batch.logprobs(logits), batch.old, white, 0.2, dual_clip=3.0)
            + value_loss(values[states], old_values, returns, 0.2)
        )

    minimise(losses, [logits, values], steps=150, epochs=4)
    return answer_probabilities(logits)


def rloo(beta: float, seed: int) -> Tensor:
    """Groups of 2, 4 and 6 answers; the ratio is of whole answers."""
    generator, sizes = torch.Generator().manual_seed(seed), torch.tensor([2, 4, 6] * 40)
    logits = REFERENCE_LOGITS.clone().requires_grad_()

    def losses(_: int) -> Callable[[], Tensor]:
        batch = Batch(logits, int(sizes.sum()), generator)
        old = sums(batch.old, batch.lengths)
        advantages = leave_one_out(penalised_scores(batch.scores, batch.kl, batch.lengths, beta), sizes)
        return lambda: policy_loss(sums(batch.logprobs(logits), batch.lengths), old, advantages, 0.2).mean()

    minimise(losses, [logits], steps=150, epochs=2)
    return answer_probabilities(logits)


def reinforce(beta: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = REFERENCE_LOGITS.clone().requires_grad_()

    def losses(_: int) -> Callable[[], Tensor]:
        batch = Batch(logits, 512, generator)
        advantages = whiten(returns_to_go(token_rewards(batch.scores, batch.kl, batch.lengths, beta), batch.lengths))
        return lambda: token_mean(policy_loss(batch.logprobs(logits), batch.old, advantages, 0.2))

    minimise(losses, [logits], steps=250, epochs=2)
    return answer_probabilities(logits)


@pytest.mark.parametrize("learn", [ppo, rloo, reinforce])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_sampled_learning_reaches_the_optimum(learn: Callable[[float, int], Tensor], beta: float) -> None:
    assert learn(beta, 0).tolist() == pytest.approx(OPTIMA[beta], abs=0.01)


# Single tokens, in exact expectation and sampled.


def exact_learning(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient descent from the reference on a loss in exact expectation; `loss` takes log pi, [3]."""
    logits = REFERENCE.log().requires_grad_()
    for _ in range(400):
        (gradient,) = torch.autograd.grad(loss(logits.log_softmax(0)), logits)
        logits = (logits - 2.0 * gradient).detach().requires_grad_()
    return logits.detach().softmax(0)


def expected(terms: Tensor, logp: Tensor) -> Tensor:
    return (logp.detach().exp() * terms).sum()


def exact_policy_gradient(beta: float) -> Callable[[Tensor], Tensor]:
    """Of score - beta log(pi / pi_ref), the KL in the reward."""

    def loss(logp: Tensor) -> Tensor:
        rewards = SCORES - beta * kl_estimates(logp.detach(), REFERENCE.log(), "k1")
        return expected(policy_loss(logp, logp.detach(), rewards, 0.2), logp)

    return loss


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_exact_policy_gradient_reaches_the_optimum(beta: float) -> None:
    assert exact_learning(exact_policy_gradient(beta)).tolist() == pytest.approx(OPTIMA[beta], abs=2e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_exact_policy_gradient_vanishes_at_the_optimum(beta: float) -> None:
    """At 0.1 too, where getting there takes long: the policy is all but certain."""
    logits = (REFERENCE.log() + SCORES / beta).requires_grad_()
    assert logits.softmax(0).tolist() == pytest.approx(OPTIMA[beta], abs=1e-6)
    (gradient,) = torch.autograd.grad(exact_policy_gradient(beta)(logits.log_softmax(0)), logits)
    assert gradient.abs().max().item() < 1e-12


def normalised(policy: Tensor) -> Tensor:
    """GRPO's advantages of the answers in an endless group."""
    centred = SCORES - policy @ SCORES
    return centred / (policy @ centred**2).sqrt()


def grpo_coefficient(beta: float) -> float:
    """The KL's coefficient for which GRPO's optimum is that of beta: its scores are divided by their deviation."""
    policy = torch.tensor(OPTIMA[beta], dtype=torch.float64)
    return beta / (policy @ (SCORES - policy @ SCORES) ** 2).sqrt().item()


def exact_grpo(estimator: Estimator, kl_coef: float) -> Tensor:
    def loss(logp: Tensor) -> Tensor:
        old = logp.detach()
        return expected(grpo_loss(logp, old, REFERENCE.log(), normalised(old.exp()), 0.2, kl_coef, estimator), logp)

    return exact_learning(loss)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_exact_grpo_with_k2_reaches_the_optimum(beta: float) -> None:
    assert exact_grpo("k2", grpo_coefficient(beta)).tolist() == pytest.approx(OPTIMA[beta], abs=2e-6)


def test_exact_grpo_with_k3_reaches_the_optimum_of_the_other_kl() -> None:
    """With A the advantages: the stationary point of E[A] - c KL(pi_ref || pi) is pi = pi_ref c / (c - A)."""
    found, kl_coef = exact_grpo("k3", 2.0), 2.0
    torch.testing.assert_close(found, REFERENCE * kl_coef / (kl_coef - normalised(found)), atol=1e-6, rtol=0)
    assert (found - exact_grpo("k2", kl_coef)).abs().max() > 0.01


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_sampled_grpo_reaches_the_optimum(beta: float) -> None:
    """Two groups of 512 answers: the deviation of a small group is not the policy's; groups of 128 end 0.02 off."""
    generator, sizes = torch.Generator().manual_seed(0), torch.tensor([512, 512])
    logits, ones = REFERENCE.log().requires_grad_(), torch.ones(int(sizes.sum()), dtype=torch.int64)
    kl_coef = grpo_coefficient(beta)

    def losses(_: int) -> Callable[[], Tensor]:
        policy = logits.detach().log_softmax(0)
        answers = torch.multinomial(policy.exp(), len(ones), replacement=True, generator=generator)
        advantages = spread(group_normalised(SCORES[answers], sizes), ones)
        old, reference = policy[answers], REFERENCE.log()[answers]

        def loss() -> Tensor:
            logprobs = logits.log_softmax(0)[answers]
            return answer_mean(grpo_loss(logprobs, old, reference, advantages, 0.2, kl_coef, "k2"), ones)

        return loss

    minimise(losses, [logits], steps=150, epochs=2)
    assert logits.detach().softmax(0).tolist() == pytest.approx(OPTIMA[beta], abs=0.02)
