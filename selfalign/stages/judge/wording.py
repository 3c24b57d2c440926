"""The words that a judge sees: conversation, candidates and principle, fenced so that none of them can pose as ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfalign import resources
from selfalign.records import Message, digest


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(autoescape=False, trim_blocks=True, lstrip_blocks=False)


@cache
def _template(name: str) -> Template:
    return _environment().from_string(resources.template(name))


def make_nonce(*texts: str) -> str:
    """A few hexadecimal characters that occur in none of the texts: what a candidate cannot have foreseen."""
    haystack, attempt = "\n".join(texts), 0
    while (nonce := digest("nonce", attempt, *texts, size=2 + attempt // 64)) in haystack:
        attempt += 1
    return nonce


def render_pairwise(
    messages: Sequence[Message],
    first: str,
    second: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("A", "B"),
) -> str:
    """The prompt that asks which of two responses is better by one principle (wording: `Principle.comparison()`)."""
    nonce = make_nonce(*(m.content for m in messages), first, second)
    text = {"messages": messages, "first": first, "second": second, "principle": principle, "preamble": preamble}
    return _template("judge_pairwise").render(text, labels=labels, nonce=nonce).strip()


def render_applies(
    messages: Sequence[Message], question: str, meanings: Sequence[str], *, preamble: str = "", labels: Sequence[str]
) -> str:
    """The prompt that asks whether a principle applies to a conversation, by the question that is its scope."""
    nonce = make_nonce(*(m.content for m in messages))
    text = {"messages": messages, "question": question, "preamble": preamble, "labels": labels, "nonce": nonce}
    return _template("judge_applies").render(text, meanings=list(zip(labels, meanings, strict=True))).strip()


def render_pointwise(
    messages: Sequence[Message],
    response: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("1", "2", "3", "4", "5"),
) -> str:
    """The prompt that asks for a rating of one response by one principle (wording: `Principle.norm()`)."""
    nonce = make_nonce(*(m.content for m in messages), response)
    text = {"messages": messages, "response": response, "principle": principle, "preamble": preamble}
    return _template("judge_pointwise").render(text, labels=labels, nonce=nonce).strip()
