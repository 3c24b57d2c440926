"""THE STORY: a campaign is rounds, a round is stages, and the accepted checkpoint is the next round's policy.

    prompts -> candidates -> judgments -> examples -> training -> report -> accept or stop
               (policy)      (judge)      (pairs,     (DPO and    (held-out judge, gate)
                                           rankings)   its kin)

Every stage is a durable step of the run folder: running the same campaign again goes on where it stopped. This file
says what happens and in which order; `rounds` and `bootstrap` say from what each step is made, `stages` how, and
`launch` where.
"""

from __future__ import annotations

from dataclasses import dataclass

from selfalign.bootstrap import (
    answer_once,
    collect_demonstrations,
    demonstration_data,
    draw_helpful_prompts,
    draw_revised_prompts,
    revise_answers,
)
from selfalign.canaries import check_canaries
from selfalign.records import Checkpoint, Report
from selfalign.roles import Baseline
from selfalign.rounds import (
    add_rewards,
    build_examples,
    draw_prompts,
    evaluate_policy,
    freeze_constitution,
    freeze_standard,
    generate_candidates,
    judge_candidates,
    sample_baseline,
    train_policy,
    training_data,
)
from selfalign.stages import report
from selfalign.steps import NoGo, Work


@dataclass(frozen=True)
class Outcome:
    """How a campaign ended: its reports, its last accepted policy, and why it stopped early, if it did."""

    reports: tuple[Report, ...]
    policy: Checkpoint
    stopped: str | None = None


def run_campaign(work: Work) -> Outcome:
    """Run every round, or go on with a campaign that was interrupted; a rejected round ends it, and a no-go.

    Raises Interrupted where somebody asked it to stop: after a shard or after a round.
    """
    rounds = work.settings.num_rounds
    work.run.emit("campaign_started", rounds=rounds)
    baseline = sample_baseline(work)
    policy = baseline.policy
    reports: list[Report] = []
    for number in range(rounds):
        work.run.emit("round_started", round=number)
        run = run_bootstrap if number < work.settings.first_round else run_round
        try:
            trained, outcome = run(work.in_round(number), number, policy, baseline)
        except NoGo as found:
            work.run.emit("campaign_stopped", round=number, reason=str(found))
            return Outcome(tuple(reports), policy, stopped=str(found))
        report.write(work.run, outcome)
        work.run.emit("gate", round=number, accepted=outcome.gate.accepted, reason=outcome.gate.reason)
        work.run.emit("round_done", round=number)
        reports.append(outcome)
        if not outcome.gate.accepted:
            work.run.emit("campaign_stopped", round=number, reason=outcome.gate.reason)
            return Outcome(tuple(reports), policy, stopped=outcome.gate.reason)
        policy = trained
        work.check_stop_after(number)
    work.run.emit("campaign_done", rounds=rounds)
    return Outcome(tuple(reports), policy)


def run_round(work: Work, number: int, policy: Checkpoint, baseline: Baseline) -> tuple[Checkpoint, Report]:
    """One round: from a policy to a trained policy, and the report that says whether it is a better one."""
    constitution, standard = freeze_constitution(work, number), freeze_standard(work, number)
    drawn = draw_prompts(work, number)
    candidates = generate_candidates(work, number, drawn, policy, baseline)
    judgments = judge_candidates(work, number, drawn, candidates, constitution, policy, baseline)
    check_canaries(work, number, constitution, policy, baseline)
    examples = build_examples(work, number, drawn, candidates, judgments, constitution)
    data = training_data(work, number, drawn, candidates, examples)
    data = add_rewards(work, number, data, policy, baseline)
    trained = train_policy(work, number, data, constitution, standard, policy, baseline)
    outcome = evaluate_policy(
        work, number, candidates, judgments, examples, constitution, standard, trained, policy, baseline
    )
    return trained, outcome


def run_bootstrap(work: Work, number: int, policy: Checkpoint, baseline: Baseline) -> tuple[Checkpoint, Report]:
    """Round zero, where it is asked for: the policy criticises and rewrites its own answers, and learns from them."""
    constitution, standard = freeze_constitution(work, number), freeze_standard(work, number)
    drawn = draw_revised_prompts(work)
    helpful = draw_helpful_prompts(work, drawn)
    answers = answer_once(work, drawn, policy, baseline)
    kept = answer_once(work, helpful, policy, baseline) if helpful else None
    revisions = revise_answers(work, drawn, answers, constitution, policy, baseline)
    demonstrations = collect_demonstrations(work, answers, revisions, kept)
    data = demonstration_data(drawn, helpful, demonstrations)
    trained = train_policy(work, number, data, constitution, standard, policy, baseline)
    outcome = evaluate_policy(
        work, number, answers, None, demonstrations, constitution, standard, trained, policy, baseline
    )
    return trained, outcome
