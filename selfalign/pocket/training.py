"""Train the pocket policy and the pocket judge from nothing, on a CPU, in float32."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from selfalign.pocket import JUDGE, POLICY, world
from selfalign.pocket.forward import logits_at, make_batch, new_model
from selfalign.pocket.judge_data import (
    Case,
    Samples,
    draw_axes,
    draw_question,
    draw_responses,
    pairwise_case,
    pointwise_case,
)
from selfalign.pocket.tokens import Coder, load_coder
from selfalign.pocket.wordings import Diet

Row = tuple[list[int], list[list[int]]]
POLICY_TOKENS, JUDGE_TOKENS = 2000, 2700  # positions per optimizer step


def load_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bfloat16 safetensors, leaving the given model as it is."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config.update(eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id)
    copy.to(torch.bfloat16).save_pretrained(folder)


class _Optimizer:
    """AdamW with linear warm-up and cosine decay to a twentieth."""

    def __init__(self, model: LlamaForCausalLM, learning_rate: float, steps: int) -> None:
        self.model, self.learning_rate, self.steps, self.done = model, learning_rate, steps, 0
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)

    def step(self, loss: Tensor) -> None:
        loss.backward()
        if dist.is_initialized():
            self._average()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        progress = self.done / self.steps
        scale = min(1.0, (self.done + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * scale
        self.adam.step()
        self.adam.zero_grad()
        self.done += 1

    def _average(self) -> None:
        """Make every process's gradient the mean of all; one message, for the model is small."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _policy_rows(coder: Coder, rng: random.Random, count: int) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt part) of drawn conversations, sorted by length."""
    asked, answered = [], []
    for _ in range(count):
        question = draw_question(rng, "train")
        asked.append(question.text)
        answered.append(world.compose(question, world.base_behaviour(question.kind, rng), rng))
    rows = []
    for prompt, answer in zip(coder.encode_many(asked), coder.encode_many(answered), strict=True):
        start = coder.chat(prompt)
        rows.append(([*start, *answer, coder.end], len(start)))
    return sorted(rows, key=lambda row: len(row[0]))


def _policy_batches(coder: Coder, rng: random.Random) -> Iterator[list[tuple[list[int], int]]]:
    while True:
        rows, batches = _policy_rows(coder, rng, 1500), []
        while rows:
            size = max(1, POLICY_TOKENS // len(rows[min(len(rows), 40) - 1][0]))
            batches.append(rows[:size])
            rows = rows[size:]
        rng.shuffle(batches)
        yield from batches


def _policy_loss(model: LlamaForCausalLM, rows: Sequence[tuple[list[int], int]], pad: int) -> Tensor:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), pad)
    where, targets = [], []
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        where += [row * length + at - 1 for at in range(start, len(tokens))]
        targets += tokens[start:]
    positions = torch.arange(length).expand_as(ids)
    logits = logits_at(model, ids, positions, None, torch.tensor(where))
    return F.cross_entropy(logits, torch.tensor(targets))


def in_processes(train: Callable[[int, int, int], None], processes: int, seed: int, steps: int) -> None:
    """Run `train(rank, seed, steps)` in single-threaded processes that average their gradients.

    On a CPU, models this small train faster so than with as many threads.
    """
    with tempfile.NamedTemporaryFile() as meeting:
        torch.multiprocessing.spawn(_joined, (train, processes, meeting.name + ".gloo", seed, steps), nprocs=processes)


def _joined(
    rank: int, train: Callable[[int, int, int], None], processes: int, meeting: str, seed: int, steps: int
) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    train(rank, seed, steps)


def train_policy(rank: int, seed: int, steps: int) -> None:
    """Supervised training on conversations whose answers have the base habits; writes the policy's weights."""
    torch.manual_seed(seed)
    rng, coder = random.Random(f"{seed}/policy/{rank}"), load_coder(POLICY)
    model = new_model(len(coder.tokenizer), coder.pad, coder.end)
    optimizer, batches, started = _Optimizer(model, 2.5e-3, steps), _policy_batches(coder, rng), time.time()
    for step in range(steps):
        loss = _policy_loss(model, next(batches), coder.pad)
        optimizer.step(loss)
        if rank == 0 and step % 100 == 99:
            print(f"policy step {step + 1}/{steps} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    if rank == 0:
        save_model(model, POLICY)


def sample(
    model: LlamaForCausalLM, coder: Coder, prompts: Sequence[str], copies: int, seed: int
) -> dict[str, list[str]]:
    """Sample `copies` answers to each prompt at temperature 1."""
    torch.manual_seed(seed)
    answers: dict[str, list[str]] = defaultdict(list)
    by_length: dict[int, list[tuple[str, list[int]]]] = defaultdict(list)
    for prompt, ids in zip(prompts, coder.encode_many(list(prompts)), strict=True):
        by_length[len(ids)].append((prompt, coder.chat(ids)))
    for group in by_length.values():
        ids = torch.tensor([tokens for _, tokens in group for _ in range(copies)])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=96, pad_token_id=coder.pad, eos_token_id=coder.end,
            )  # fmt: skip
        texts = coder.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        for number, text in enumerate(texts):
            answers[group[number // copies][0]].append(text)
    return dict(answers)


def sample_policy(seed: int, count: int = 600, copies: int = 4) -> Samples:
    """What the base policy says to drawn training prompts: the judge must know what it will really be shown."""
    rng, coder = random.Random(f"{seed}/samples"), load_coder(POLICY)
    prompts = sorted({draw_question(rng, "train").text for _ in range(count)})
    return sample(load_model(POLICY), coder, prompts, copies, seed)


class _JudgeRows:
    """Draws judge cases and encodes them; a wording's tokens are remembered."""

    def __init__(self, coder: Coder, samples: Samples, rng: random.Random) -> None:
        self.coder, self.samples, self.rng = coder, samples, rng
        self.sampled = [q for kind in world.KINDS for q in world.questions(kind, "train") if q.text in samples]
        self.branches: dict[str, list[int]] = {}
        self.diet = Diet()

    def case(self, pairwise: bool) -> Case:
        use = self.sampled and self.rng.random() < 0.3
        question = self.rng.choice(self.sampled) if use else draw_question(self.rng, "train")
        responses = draw_responses(question, self.samples if use else {}, self.rng)
        if pairwise:
            axes = draw_axes(question.kind, self.rng, 14)
            return pairwise_case(question, responses, axes, self.rng, self.diet, ties=0.2)
        axes = draw_axes(question.kind, self.rng, 8)
        return pointwise_case(question, responses[0], axes, self.rng, self.diet)

    def branch(self, text: str) -> list[int]:
        if text not in self.branches:
            self.branches[text] = [*self.coder.encode(text), self.coder.end, self.coder.assistant]
        return self.branches[text]

    def rows(self, pairwise: bool, count: int) -> list[tuple[Row, Case]]:
        cases = [case for _ in range(count) if (case := self.case(pairwise)).asks]
        prefixes = self.coder.encode_many([case.before for case in cases])
        rows = []
        for prefix, case in zip(prefixes, cases, strict=True):
            case = Case(case.question, case.responses, case.before, case.after, case.asks[:8])
            rows.append(
                (([self.coder.user, *prefix], [self.branch(a.principle + case.after) for a in case.asks]), case)
            )
        return sorted(rows, key=lambda row: len(row[0][0]) + sum(map(len, row[0][1])))

    def batches(self, pairwise: bool) -> Iterator[list[tuple[Row, Case]]]:
        while True:
            rows = self.rows(pairwise, 160)
            size = max(1, JUDGE_TOKENS // (sum(len(p) + sum(map(len, b)) for (p, b), _ in rows) // len(rows)))
            batches = [rows[at : at + size] for at in range(0, len(rows), size)]
            self.rng.shuffle(batches)
            yield from (batch for batch in batches if len(batch) > size // 2)


def judge_loss(model: LlamaForCausalLM, coder: Coder, batch: Sequence[tuple[Row, Case]]) -> tuple[Tensor, float]:
    """Cross entropy of the answers' label tokens over the whole vocabulary, and the share of right ones."""
    layout = make_batch([row for row, _ in batch], coder.pad)
    logits = logits_at(model, layout.ids_BT, layout.positions_BT, layout.mask_B1TT, layout.where_N)
    targets = torch.tensor([ask.target for _, case in batch for ask in case.asks])
    names = ("A", "B") if targets.shape[1] == 2 else ("1", "2", "3", "4", "5")
    labels = torch.tensor([coder.labels[name] for name in names])
    logprobs = logits.log_softmax(-1)[:, labels]
    decided = targets.max(-1).values > 0.5
    right = (logprobs.argmax(-1) == targets.argmax(-1))[decided].float().mean().item()
    return -(targets * logprobs).sum(-1).mean(), right


def _lesson(progress: float) -> tuple[Diet, float]:
    """Which wordings, and which share of comparisons, after this part of the training.

    First ratings by plain wordings that ask for the good end; then opposite ones, all wordings, and comparisons. Taught
    all at once, the judge stays at chance for long: a wording's direction means nothing until responses are understood.
    """
    plain = 0.1 + 0.9 * min(1.0, max(0.0, (0.5 - progress) / 0.3))
    return Diet(plain=plain, wanting=1.0 if progress < 0.15 else 0.6), 0.0 if progress < 0.27 else 0.65


def train_judge(rank: int, seed: int, steps: int) -> None:
    """Teach the judge from the policy's weights, which know the facts; ratings come first and carry comparisons."""
    torch.manual_seed(seed)
    coder, rng = load_coder(JUDGE), random.Random(f"{seed}/judge/{rank}")
    model, started = load_model(POLICY), time.time()
    rows = _JudgeRows(coder, sample_policy(seed * 100 + rank), rng)
    print(f"sampled the policy in {time.time() - started:.0f} s", flush=True)
    model.train()
    optimizer = _Optimizer(model, 1.5e-3, steps)
    batches = {kind: rows.batches(kind) for kind in (False, True)}
    recent: dict[bool, list[float]] = {False: [], True: []}
    kinds = random.Random(f"{seed}/kinds")
    for step in range(steps):
        rows.diet, share_of_pairs = _lesson(step / steps)
        pairwise = kinds.random() < share_of_pairs
        loss, right = judge_loss(model, coder, next(batches[pairwise]))
        optimizer.step(loss)
        recent[pairwise].append(right)
        if rank == 0 and step % 50 == 49:
            shares = " ".join(
                f"{n} {sum(r) / max(1, len(r)):.3f}" for n, r in zip(("rate", "pair"), recent.values(), strict=True)
            )
            print(f"judge step {step + 1}/{steps} right {shares} {time.time() - started:.0f} s", flush=True)
            recent = {False: [], True: []}
    if rank == 0:
        save_model(model, JUDGE)
