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


def make_nonce(*texts: str, beside: Sequence[str] = ()) -> str:
    """A few hexadecimal characters that occur neither in the texts that they are made from nor in those `beside` them.

    The judge's are made from the conversation, so that whatever is asked about one begins with the same words, which
    an engine reads once. What keeps a candidate from posing as ours is not that it could not foresee them, but that it
    does not hold them: one that did, by luck or by computing them, would have made them others.
    """
    haystack, attempt = "\n".join((*texts, *beside)), 0
    while (nonce := digest("nonce", attempt, *texts, size=2 + attempt // 64)) in haystack:
        attempt += 1
    return nonce


def sign(messages: Sequence[Message], *responses: str) -> str:
    """The nonce of a question: it marks our own words, and a reply in JSON bears it."""
    return make_nonce(*(m.content for m in messages), *responses)


def _mark(messages: Sequence[Message], responses: Sequence[str], reasons: bool) -> str:
    """What marks our own words: the sign where a reply is to bear it, else what the whole conversation shares."""
    return sign(messages, *responses) if reasons else make_nonce(*(m.content for m in messages), beside=responses)


def render_pairwise(
    messages: Sequence[Message],
    first: str,
    second: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("A", "B"),
    reasons: bool = False,
) -> str:
    """The prompt that asks which of two responses is better by one principle (wording: `Principle.comparison()`).

    With `reasons` a JSON object is asked for that gives them before the verdict, and bears the question's `sign`.
    """
    nonce = _mark(messages, (first, second), reasons)
    text = {"messages": messages, "first": first, "second": second, "principle": principle, "preamble": preamble}
    return _template("judge_pairwise").render(text, labels=labels, reasons=reasons, nonce=nonce).strip()


def render_pointwise(
    messages: Sequence[Message],
    response: str,
    principle: str,
    *,
    preamble: str = "",
    labels: Sequence[str] = ("1", "2", "3", "4", "5"),
    levels: Sequence[str] = (),
    reasons: bool = False,
) -> str:
    """The prompt that asks for a rating of one response by one principle (wording: `Principle.norm()`).

    `levels` are what the labels mean, where the principle's rubric says so; `reasons` are as in `render_pairwise`.
    """
    nonce = _mark(messages, (response,), reasons)
    text = {"messages": messages, "response": response, "principle": principle, "preamble": preamble}
    scale = {"labels": labels, "levels": levels, "reasons": reasons}
    return _template("judge_pointwise").render(text, **scale, nonce=nonce).strip()
