"""Two wordings as one text: what went and what came, in colours on a terminal, in brackets elsewhere."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from rich.text import Text

from selfalign.text import clean

MAX_DIFF_WORDS = 5000  # a comparison of longer texts could take minutes


def diff(before: str, after: str) -> Text:
    """`after`, with the words that are not in `before` in green, and between them in red those that went."""
    shown = Text()
    for gone, came, kept in _pieces(before, after):
        shown.append(gone, style="red strike")
        shown.append(came, style="green")
        shown.append(kept)
    return shown


def sides(before: str, after: str) -> tuple[Text, Text]:
    """Both wordings for two columns: on the left the words that the right has not in red, on the right the reverse.

    The words are underlined too, for eyes and terminals that do not tell the colours apart.
    """
    left, right = Text(), Text()
    for gone, came, kept in _pieces(before, after):
        left.append(gone, style="red underline").append(kept)
        right.append(came, style="green underline").append(kept)
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
