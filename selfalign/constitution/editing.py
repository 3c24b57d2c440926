"""Constitution files as text: edits that keep comments and order, and fresh files that editors can complete."""

from __future__ import annotations

import io
from typing import Any

FRESH_WIDTH = 120
_NEVER = 2**31  # an edited file keeps its long lines


def open_document(text: str) -> Any:
    """The file as a ruamel.yaml mapping that remembers comments, order and quotes; for text that `load` accepts."""
    return _editor(_NEVER).load(text)


def dump(document: Any, width: int = _NEVER) -> str:
    """The text of a document of `open_document`, or of plain values; lines are broken at `width`."""
    stream = io.StringIO()
    _editor(width).dump(document, stream)
    return stream.getvalue()


def _editor(width: int) -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes, editor.width = True, width
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor
