"""The one door for untrusted text on its way to a screen.

Prompts, completions, judge output, file names and the messages of libraries may hold terminal escape sequences (which
can write the clipboard, retitle the window, hide text) and bidirectional controls (which reorder what is read).
"""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"""
    (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])                    # OSC, DCS, SOS, PM, APC ...
        [^\x07\x1b\x80-\x9f]*+(?:\x1b\\|\x9c|\x07)          # ... to their terminator; without one, no text is hidden
    | (?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]?                   # CSI
    | \x1b[\]PX^_]                                          # the start of one that never ends
    | \x1b[ -/]*+[0-~]?                                     # any other escape
    """,
    re.VERBOSE,
)
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line and paragraph separators, byte-order mark, annotations
    "\U000e0000-\U000e007f]"  # invisible tag characters
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return text that is safe to print: whole escape sequences and all controls but tab and newline are gone.

    Lone surrogates, which no stream can encode, become U+FFFD. What is left is still foreign: print it as plain text,
    never as markup.
    """
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text.replace("\r\n", "\n")))
    return _SURROGATES.sub("\ufffd", text)


def one_line(value: object, limit: int | None = None) -> str:
    """Return a value as one cleaned line (None: an empty one), cut with "…" at `limit` characters, 1 or more."""
    text = "" if value is None else str(value)
    if limit is not None:
        text = text[: 8 * limit + 4096]  # whatever its length, a cell of a table costs little
    line = " ".join(clean(text).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"
