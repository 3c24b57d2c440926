"""What a model says may explain a preference: asked pair by pair, and read as the foreign text that it is."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfalign import resources, source
from selfalign.constitution.lint import belongs_to_template
from selfalign.engines.base import Engine, GenerateRequest, Generation, Sampling
from selfalign.mining.evidence import Preference
from selfalign.records import Message, derived_seed
from selfalign.stages.judge import make_nonce
from selfalign.text import clean, one_line

KINDS = ("merit", "trait")  # what is good about the preferred answer; what decided, good or not
OPENING = "Select the response that"
SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=512)
MAX_CHARACTERS = 160  # of a rule; a judge reads it thousands of times
MAX_REPLY = 20_000
UNUSABLE = {
    "error": "the model gave no reply, as for a pair longer than its context",
    "truncated": "cut off",
    "empty": "empty",
    "unreadable": "neither a JSON list of texts nor lines of rules",
}  # of replies
REFUSED = {
    "no rule": f'begins otherwise than "{OPENING}", or ends there',
    "too long": f"has more than {MAX_CHARACTERS} characters",
    "markup": "holds brackets, braces or a template's markup",
    "of one pair": "names a response by its label, its place or its being preferred",
    "duplicate": "said of this pair before",
}  # of single rules
_BEGINS = re.compile(
    r"(?:select|choose|pick|prefer) the (?:response|answer|reply|text|output)s? (?:that|which)\b[\s.,:…]*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s*")
_FENCED = re.compile(r"```(?:json|text)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_ONE_PAIR = re.compile(
    r"\b(?:preferred|chosen|rejected|other|selected|above) (?:response|answer|reply|one|text|sample)s?\b", re.IGNORECASE
)
_MARKUP = re.compile(r"[<>{}\[\]|\\`]")

Told = Callable[[str, int, int], None]  # what is being done, how much of it is done, how much there is to do


@dataclass(frozen=True)
class Proposals:
    """`rules` has for each the ids of the pairs that proposed it; `counts` how many there were, and of no use."""

    rules: dict[str, list[str]]
    counts: Counter[str]


def propose(pairs: Sequence[Preference], engine: Engine, *, count: int, seed: int, told: Told) -> Proposals:
    """Ask of each pair, once for each of `KINDS`, for `count` rules that may explain the preference.

    The two answers are shown in an order drawn with `seed`, the preferred one marked. Replies that come in another
    order give the same proposals.
    """
    asked = {f"{pair.id}:{kind}": (pair, kind) for pair in pairs for kind in KINDS}
    requests = (
        GenerateRequest(name, (Message("user", render(*each, count, seed)),), derived_seed(seed, "propose", name))
        for name, each in asked.items()
    )
    replies: dict[str, Generation] = {}
    for reply in engine.generate(requests, SAMPLING):
        replies[reply.id] = reply
        told("propose", len(replies), len(asked))
    rules: dict[str, list[str]] = defaultdict(list)
    counts = Counter(replies=len(asked))
    for name, (pair, _) in asked.items():
        for rule in _rules(replies[name], counts):
            said = rules[rule]
            counts["duplicate" if pair.id in said else "rules"] += 1
            said += [] if pair.id in said else [pair.id]
    return Proposals(dict(rules), counts)


def render(pair: Preference, kind: str, count: int, seed: int) -> str:
    """The prompt that asks what may explain one preference."""
    responses = [("preferred", pair.chosen), ("other", pair.rejected)]
    if derived_seed(seed, "shown", pair.id) % 2:
        responses.reverse()
    nonce = make_nonce(*(message.content for message in pair.prompt.messages), pair.chosen, pair.rejected)
    text = {"messages": pair.prompt.messages, "responses": responses, "nonce": nonce, "kind": kind, "count": count}
    return _template().render(text).strip()


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(autoescape=False, trim_blocks=True)
    return environment.from_string(resources.template("mine"))


def _rules(reply: Generation, counts: Counter[str]) -> list[str]:
    """The rules in one reply that are fit to be asked of a judge; the others are counted by reason."""
    lines = _lines(reply)
    if isinstance(lines, str):
        counts[lines] += 1
        return []
    found = []
    for line in lines:
        rule, reason = read_rule(line)
        counts.update([reason] if reason else [])
        found += [rule] if rule else []
    return found


def _lines(reply: Generation) -> list[str] | str:
    """What a reply lists, or why it lists nothing, as a key of UNUSABLE."""
    if reply.finish_reason in ("error", "length"):
        return "error" if reply.finish_reason == "error" else "truncated"
    text = reply.text.rpartition("</think>")[2].strip()  # models that think aloud do so first
    if not text:
        return "empty"
    return read_list(text) or "unreadable"


def read_list(text: str) -> list[str]:
    """The texts of a JSON list, which may stand in a fence; else the lines that are rules; nothing for anything else.

    What looks like JSON and is none is not read as lines, for half of it would be taken for whole.
    """
    text = text[:MAX_REPLY].strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1].strip()
    if text[:1] not in ("[", "{", '"'):
        lines = (_BULLET.sub("", line) for line in text.splitlines())
        return [line for line in lines if _BEGINS.match(line.strip(" *_\"'`"))]
    try:
        values = source.parse_json(text)
    except ValueError:
        return []
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else []


def read_rule(text: str) -> tuple[str, str]:
    """A proposal as one plain sentence that begins with `OPENING`; or nothing, and why, as a key of REFUSED."""
    plain = "".join(
        c for c in unicodedata.normalize("NFC", clean(text)) if c in "\n\t" or unicodedata.category(c)[0] != "C"
    )
    words = one_line(plain).strip(" *_\"'`“”").replace("**", "")
    found = _BEGINS.match(words)
    rest = words[found.end() :].strip(" .…*_\"'`“”") if found else ""
    if not re.search(r"\w", rest):
        return "", "no rule"
    rule = f"{OPENING} {rest}."
    if len(rule) > MAX_CHARACTERS:
        return "", "too long"
    if _MARKUP.search(rest):
        return "", "markup"
    if belongs_to_template(rule) or _ONE_PAIR.search(rest):
        return "", "of one pair"
    return rule, ""
