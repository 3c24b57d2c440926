"""Judge: put candidates before the judge, one principle at a time, and record what it says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfalign.records import Message, digest

TEMPLATES = Path(__file__).resolve().parents[2] / "prompts" / "templates"


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(autoescape=False, trim_blocks=True, lstrip_blocks=False)


@cache
def _template(name: str):
    return _environment().from_string((TEMPLATES / f"{name}.j2").read_text(encoding="utf-8"))


def make_nonce(*texts: str) -> str:
    """Four hexadecimal characters that occur in none of the texts: what a candidate cannot have foreseen."""
    attempt = 0
    while (nonce := digest("nonce", attempt, *texts, size=2)) in "\n".join(texts):
        attempt += 1
    return nonce


def render_pairwise(messages: Sequence[Message], first: str, second: str, principle: str, *, preamble: str = "") -> str:
    """The prompt that asks which of two responses is better by one principle (wording: `Principle.comparison()`)."""
    nonce = make_nonce(*(m.content for m in messages), first, second)
    return _template("judge_pairwise").render(
        messages=messages, first=first, second=second, principle=principle, preamble=preamble, nonce=nonce
    ).strip()


def render_pointwise(messages: Sequence[Message], response: str, principle: str, *, preamble: str = "") -> str:
    """The prompt that asks for a rating of one response by one principle (wording: `Principle.norm()`)."""
    nonce = make_nonce(*(m.content for m in messages), response)
    return _template("judge_pointwise").render(
        messages=messages, response=response, principle=principle, preamble=preamble, nonce=nonce
    ).strip()
