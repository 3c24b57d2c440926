"""What an API judge costs, and the end of asking before it costs more than it may."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from selfalign.config import Price
from selfalign.engines.base import ChoiceRequest, GenerateRequest
from selfalign.stages import StageError

EVENT = "judge_spent"
_MESSAGE_TOKENS = 16  # what a chat template may add to a message, generously
_NOTE_SECONDS = 1.0


def dollars(price: Price, prompt_tokens: float, answer_tokens: float) -> float:
    """The price of so many tokens of prompts and of answers."""
    return (prompt_tokens * price.input + answer_tokens * price.output) / 1e6


def spent(events: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """By round the dollars that its judges have cost, by a run's events."""
    found: dict[int, float] = {}
    number = 0
    for event in events:
        if event["event"] == "round_started":
            number = int(event["round"])
        elif event["event"] == EVENT:
            found[number] = found.get(number, 0.0) + float(event["dollars"])
    return found


class Budget:
    """The dollars that a campaign's judge may cost, and has cost.

    A question is put only where it is paid for even if each of its bytes is a token and its answer as long as may be,
    and so is each question under way: what is spent never exceeds `limit`. `note` is told of spending every second, so
    that a crash forgets no more.
    """

    def __init__(
        self, price: Price, limit: float | None, before: float, note: Callable[[int, int, float], None]
    ) -> None:
        self._price, self._limit, self.spent, self._note = price, limit, before, note
        self._under_way: dict[str, float] = {}
        self._tokens = self._answers = 0
        self._noted = time.monotonic()

    def admits(self, request: ChoiceRequest | GenerateRequest, answer_tokens: int = 1) -> bool:
        """Whether the question may be put now; with none under way, a no is final."""
        most = self._most(request, answer_tokens)
        if self._limit is not None and self.spent + sum(self._under_way.values()) + most > self._limit:
            return False
        self._under_way[request.id] = most
        return True

    def settle(self, name: str, prompt_tokens: int, answer_tokens: int) -> None:
        """Pay for the answer to a question. One that never came has no tokens of a prompt."""
        self._under_way.pop(name, None)
        if prompt_tokens:
            self._tokens, self._answers = self._tokens + prompt_tokens, self._answers + answer_tokens
            self.spent += dollars(self._price, prompt_tokens, answer_tokens)
        if time.monotonic() - self._noted > _NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Tell what was spent since it was last told."""
        if self._answers:
            self._note(self._tokens, self._answers, dollars(self._price, self._tokens, self._answers))
        self._tokens = self._answers = 0
        self._noted = time.monotonic()

    def exhausted(self, request: ChoiceRequest | GenerateRequest, answer_tokens: int = 1) -> StageError:
        most = self._most(request, answer_tokens)
        return StageError(
            f"the judge may cost {self._limit:g} dollars (judge.max_cost), {self.spent:.4f} are spent, and the next "
            f"question could cost {most:.4f}. What was answered is kept. To go on with a larger budget, "
            "begin the campaign anew beside this one, which asks no question twice: "
            "selfalign run FILE --set name=NEW_NAME --set judge.max_cost=DOLLARS"
        )

    def _most(self, request: ChoiceRequest | GenerateRequest, answer_tokens: int) -> float:
        texts = [*(message.content for message in request.messages), getattr(request, "prefix", "")]
        tokens = sum(len(text.encode("utf-8", "replace")) + _MESSAGE_TOKENS for text in texts)
        return dollars(self._price, tokens, answer_tokens)
