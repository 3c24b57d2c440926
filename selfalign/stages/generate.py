"""Generate: sample candidates for every prompt from the policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from selfalign.config import Generate
from selfalign.engines.base import Engine, GenerateRequest, Generation, Sampling
from selfalign.engines.streaming import answer_shards
from selfalign.records import Candidate, Prompt, derived_seed


def generate(
    shards: Iterable[tuple[int, list[Prompt]]],
    engine: Engine,
    settings: Generate,
    *,
    policy_id: str,
    seed: int,
    logprobs: bool = False,
    by_token: bool = False,
) -> Iterator[tuple[int, list[Candidate]]]:
    """Sample `settings.samples` candidates a prompt and yield each shard of prompts once all of its candidates are in.

    A candidate's seed depends on `seed`, its prompt and its sample index alone, so a shard sampled again after a crash
    is the same shard. Within a shard, candidates are ordered by prompt, then by sample index. `logprobs` asks for the
    log-probability of each candidate too, `by_token` for that of each of its tokens.
    """
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens, logprobs or by_token)
    asked = ((index, prompts, _requests(prompts, settings.samples, policy_id, seed)) for index, prompts in shards)
    for index, prompts, generations in answer_shards(asked, lambda requests: engine.generate(requests, sampling)):
        yield index, _candidates(prompts, generations, settings.samples, policy_id, seed, by_token)


def count_candidates(candidates: Sequence[Candidate]) -> Counter[str]:
    """How many candidates there are, and how many of them are duplicates, truncated, errors or empty."""
    counts = Counter(candidates=len(candidates), duplicate=0, truncated=0, error=0, empty=0)
    for candidate in candidates:
        counts["duplicate"] += candidate.duplicate_of is not None
        counts["truncated"] += candidate.finish_reason == "length"
        counts["error"] += candidate.finish_reason == "error"
        counts["empty"] += candidate.finish_reason != "error" and not candidate.text.strip()
    return counts


def _identity(prompt: Prompt, sample_index: int, policy_id: str, seed: int) -> tuple[str, int]:
    sample_seed = derived_seed(seed, prompt.id, sample_index)
    return Candidate.make_id(prompt.id, policy_id, sample_index, sample_seed), sample_seed


def _requests(prompts: Sequence[Prompt], samples: int, policy_id: str, seed: int) -> Iterator[GenerateRequest]:
    for prompt in prompts:
        for sample_index in range(samples):
            candidate_id, sample_seed = _identity(prompt, sample_index, policy_id, seed)
            yield GenerateRequest(candidate_id, prompt.messages, sample_seed)


def _candidates(
    prompts: Sequence[Prompt],
    generations: Mapping[str, Generation],
    samples: int,
    policy_id: str,
    seed: int,
    by_token: bool,
) -> list[Candidate]:
    candidates = []
    for prompt in prompts:
        first_with: dict[str, str] = {}
        for sample_index in range(samples):
            candidate_id, sample_seed = _identity(prompt, sample_index, policy_id, seed)
            generation = generations[candidate_id]
            failed = generation.finish_reason == "error"
            text = "" if failed else generation.text
            original = candidate_id if failed else first_with.setdefault(text, candidate_id)
            candidates.append(
                Candidate(
                    id=candidate_id,
                    prompt_id=prompt.id,
                    policy_id=policy_id,
                    sample_index=sample_index,
                    seed=sample_seed,
                    text=text,
                    token_ids=() if failed else generation.token_ids,
                    finish_reason=generation.finish_reason,
                    logprob=None if failed else generation.logprob,
                    duplicate_of=None if original == candidate_id else original,
                    logprobs=(generation.logprobs or ()) if by_token and not failed else (),
                )
            )
    return candidates
