"""Two wordings as one text: what went and what came, in colours on a terminal, in brackets elsewhere."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from rich.text import Text

from selfalign.text import clean

LEAST_ALIKE = 0.2  # share of two texts that both have, below which marking words tells nothing
MAX_DIFF_WORDS = 5000  # a comparison of longer texts could take minutes


def diff(before: str, after: str, styles: tuple[str, str] = ("red strike", "green")) -> Text:
    """`after`, with the words that are not in `before` in green, and between them in red those that went.

    `styles`: how words that went, and words that came, are shown instead.
    """
    shown = Text()
    for gone, came, kept in _pieces(before, after):
        shown.append(gone, style=styles[0])
        shown.append(came, style=styles[1])
        shown.append(kept)
    return shown


def sides(before: str, after: str, styles: tuple[str, str]) -> tuple[Text, Text]:
    """Both texts for two columns, each with the words that the other has not in its style.

    Texts that have little in common, or are too long to compare, are left unmarked: all would be marked.
    """
    pieces = _pieces(before, after)
    alike = sum(len(kept.strip()) for _, _, kept in pieces) / (max(len(before), len(after)) or 1)
    if alike < LEAST_ALIKE or len(before.split()) + len(after.split()) > MAX_DIFF_WORDS // 2:
        return Text(clean(before)), Text(clean(after))
    left, right = Text(), Text()
    for gone, came, kept in pieces:
        left.append(gone, style=styles[0]).append(kept)
        right.append(came, style=styles[1]).append(kept)
    return left, right


def marked(before: str, after: str) -> str:
    """The same in plain text, as git's word diff writes it: [-gone-]{+new+}."""
    return "".join(
        f"[-{gone}-]" * bool(gone) + f"{{+{came}+}}" * bool(came) + kept for gone, came, kept in _pieces(before, after)
    )


def _pieces(before: str, after: str) -> list[tuple[str, str, str]]:
    """What went, what came in its place, and what stayed: either the last is empty or the other two are."""
    old, new = (re.findall(r"\s+|\S+", clean(text)) for text in (before, after))
    if len(old) + len(new) > MAX_DIFF_WORDS:
        return [("", "", "".join(new))]
    pieces: list[tuple[str, str, str]] = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = "".join(old[i:j]), "".join(new[k:m])
        last = pieces[-1] if pieces else ("", "", "")
        if last[0] and last[1] and (kind != "equal" or gone.isspace()):  # words that change side by side are one change
            pieces[-1] = (last[0] + gone, last[1] + came, "")
        else:
            pieces.append(("", "", came) if kind == "equal" else (gone, came, ""))
    return pieces
