"""Train the pocket policy and the pocket judge from nothing, on a CPU, in float32."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from selfalign.pocket import JUDGE, POLICY, world
from selfalign.pocket.checkers import AXES
from selfalign.pocket.forward import Batch, logits_and_hidden, logits_at, make_batch, new_model
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
SHARPNESS = 1.15  # of the shipped policy's logits: as trained, one answer in twenty slips somewhere
POLICY_TOKENS, JUDGE_TOKENS = 2000, 2700  # positions per optimizer step


def load_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write bfloat16 safetensors, leaving the given model as it is."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config.update(eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id)
    copy.to(torch.bfloat16).save_pretrained(folder)


def scale_logits(model: LlamaForCausalLM, factor: float) -> None:
    """Multiply all logits, as a temperature of 1 / factor does."""
    with torch.no_grad():
        model.model.norm.weight.mul_(factor)


class _Optimizer:
    """AdamW with linear warm-up and cosine decay to a twentieth."""

    def __init__(self, model: torch.nn.Module, learning_rate: float, steps: int) -> None:
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
        """Make every process's gradient the mean of all; one message, for the model is small.

        A parameter that one process's batch left out (a note of which there was nothing to read) counts as zero there.
        """
        gradients = []
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
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
        scale_logits(model, SHARPNESS)
        save_model(model, POLICY)


def sample(
    model: LlamaForCausalLM, coder: Coder, prompts: Sequence[str], copies: int, seed: int
) -> dict[str, list[str]]:
    """Sample `copies` answers to each prompt at temperature 1."""
    torch.manual_seed(seed)
    answers: dict[str, list[str]] = defaultdict(list)
    encoded = zip(prompts, coder.encode_many(list(prompts)), strict=True)
    rows = sorted(
        ((prompt, coder.chat(ids)) for prompt, ids in encoded for _ in range(copies)), key=lambda r: len(r[1])
    )
    for at in range(0, len(rows), 256):
        part = rows[at : at + 256]
        length = max(len(ids) for _, ids in part)
        ids = torch.tensor([[coder.pad] * (length - len(ids)) + ids for _, ids in part])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=(ids != coder.pad).long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=96, pad_token_id=coder.pad, eos_token_id=coder.end,
            )  # fmt: skip
        for (prompt, _), tokens in zip(part, out[:, length:], strict=True):
            answers[prompt].append(coder.tokenizer.decode(tokens, skip_special_tokens=True))
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
            axes = draw_axes(question.kind, self.rng, 30)
            return pairwise_case(question, responses, axes, self.rng, self.diet, ties=0.2)
        axes = draw_axes(question.kind, self.rng, 14)
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
            case = replace(case, asks=case.asks[:14])
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


class _Notes(torch.nn.Module):
    """Readers of the judge's inner state, thrown away after training.

    Layer by layer they ask for what a verdict is made of: what the right answer is (one layer in, before the response);
    whether a value named in a response is that answer (two layers in, at its last token); what each response does
    (three layers in, where it ends) and what each wording wants (likewise). Without them the judge must find out by
    itself that these matter, which takes very long.
    """

    def __init__(self, coder: Coder, width: int) -> None:
        super().__init__()
        self.answers = sorted({value for facts in world.FACTS.values() for value in facts.values()})
        self.spelled = {v: [coder.encode(f" {v}"), coder.encode(v)] for v in self.answers}
        self.answer = torch.nn.Linear(width, len(self.answers))
        self.match = torch.nn.Linear(width, 2)
        self.wording = torch.nn.Linear(width, 2 * len(AXES))
        self.response = torch.nn.Linear(width, 4 * len(AXES))
        # The template's tokens before the first response and between the two.
        self.before_one, self.before_first, self.before_second = (
            coder.encode(text)[0] for text in (" response>\n", " response A>\n", " response B>\n")
        )

    def loss(self, hidden: list[Tensor], layout: Batch, batch: Sequence[tuple[Row, Case]]) -> Tensor:
        """`hidden`: what enters each layer, [B * T, D]."""
        wordings = [ask.wording for _, case in batch for ask in case.asks]
        wanted = [2 * AXES.index(wording.axis) + wording.wants for wording in wordings]
        read = F.cross_entropy(self.wording(hidden[-1][layout.where_N - 2]), torch.tensor(wanted))  # 2 tokens follow
        ends, does = [], []
        for start, ((prefix, _), case) in zip(layout.starts_B.tolist(), batch, strict=True):
            single = len(case.responses) == 1
            ends += [start + at for at in ([] if single else [prefix.index(self.before_second)]) + [len(prefix) - 1]]
            does += [[3 if gold[axis] is None else round(2 * gold[axis]) for axis in AXES] for gold in case.gold]
        seen = F.cross_entropy(self.response(hidden[-1][torch.tensor(ends)]).view(-1, 4), torch.tensor(does).flatten())
        return read + seen + self._facts_loss(hidden, layout, batch)

    def _facts_loss(self, hidden: list[Tensor], layout: Batch, batch: Sequence[tuple[Row, Case]]) -> Tensor:
        questions, answers, named, right = [], [], [], []
        for start, ((prefix, _), case) in zip(layout.starts_B.tolist(), batch, strict=True):
            slots = dict(case.question.slots)
            if "entity" in slots:
                facts = world.FACTS[slots["relation"]]
                at = prefix.index(self.before_one if len(case.responses) == 1 else self.before_first)
                questions.append(start + at)
                answers.append(self.answers.index(facts[slots["entity"]]))
                for place, value in self._values(prefix, at, set(facts.values())):
                    named.append(start + place)
                    right.append(int(value == facts[slots["entity"]]))
        loss = torch.zeros(())
        if questions:
            loss = loss + F.cross_entropy(self.answer(hidden[1][torch.tensor(questions)]), torch.tensor(answers))
        if named:
            loss = loss + F.cross_entropy(self.match(hidden[2][torch.tensor(named)]), torch.tensor(right))
        return loss

    def _values(self, prefix: list[int], start: int, values: set[str]) -> Iterator[tuple[int, str]]:
        """Where each value is named after `start`: the place of its last token."""
        spelled = [(value, tokens) for value in values for tokens in self.spelled[value]]
        for at in range(start + 1, len(prefix)):
            for value, tokens in spelled:
                if prefix[at] == tokens[-1] and prefix[at - len(tokens) + 1 : at + 1] == tokens:
                    yield at, value
                    break


def judge_loss(
    model: LlamaForCausalLM, notes: _Notes, coder: Coder, batch: Sequence[tuple[Row, Case]]
) -> tuple[Tensor, float]:
    """Cross entropy of the label tokens over all the vocabulary plus that of the notes, and the share of right ones."""
    layout = make_batch([row for row, _ in batch], coder.pad)
    logits, hidden = logits_and_hidden(model, layout.ids_BT, layout.positions_BT, layout.mask_B1TT, layout.where_N)
    targets = torch.tensor([ask.target for _, case in batch for ask in case.asks])
    names = ("A", "B") if targets.shape[1] == 2 else ("1", "2", "3", "4", "5")
    labels = torch.tensor([coder.labels[name] for name in names])
    logprobs = logits.log_softmax(-1)[:, labels]
    decided = targets.max(-1).values > 0.5
    right = (logprobs.argmax(-1) == targets.argmax(-1))[decided].float().mean().item()
    return -(targets * logprobs).sum(-1).mean() + 0.5 * notes.loss(hidden, layout, batch), right


def _lesson(progress: float) -> tuple[Diet, float]:
    """Which wordings, and which share of comparisons, after this part of the training.

    First ratings by plain wordings that ask for the good end; then opposite ones, all wordings, and comparisons. Taught
    all at once, the judge stays at chance for long: a wording's direction means nothing until responses are understood.
    """
    plain = 0.1 + 0.9 * min(1.0, max(0.0, (0.3 - progress) / 0.2))
    return Diet(plain=plain, wanting=1.0 if progress < 0.06 else 0.6), 0.0 if progress < 0.12 else 0.6


def train_judge(rank: int, seed: int, steps: int) -> None:
    """Teach the judge from the policy's weights, which know the facts; ratings come first and carry comparisons."""
    torch.manual_seed(seed)
    coder, rng = load_coder(JUDGE), random.Random(f"{seed}/judge/{rank}")
    model, started = load_model(POLICY), time.time()
    scale_logits(model, 1 / SHARPNESS)
    notes = _Notes(coder, model.config.hidden_size)
    rows = _JudgeRows(coder, sample_policy(seed * 100 + rank), rng)
    print(f"sampled the policy in {time.time() - started:.0f} s", flush=True)
    model.train()
    optimizer = _Optimizer(torch.nn.ModuleList([model, notes]), 1.5e-3, steps)
    batches = {kind: rows.batches(kind) for kind in (False, True)}
    recent: dict[bool, list[float]] = {False: [], True: []}
    kinds = random.Random(f"{seed}/kinds")
    for step in range(steps):
        rows.diet, share_of_pairs = _lesson(step / steps)
        pairwise = kinds.random() < share_of_pairs
        loss, right = judge_loss(model, notes, coder, next(batches[pairwise]))
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
