"""Constitution files as text: edits that keep comments and order, and fresh files."""

from __future__ import annotations

import io
from typing import Any

_NEVER = 2**31  # long lines stay whole: a line of a diff is then a text that was changed


def open_document(text: str) -> Any:
    """The file as a ruamel.yaml mapping that remembers comments, order and quotes; for text that `load` accepts."""
    return _editor().load(text)


def dump(document: Any) -> str:
    """The text of a document of `open_document`, or of plain values."""
    stream = io.StringIO()
    _editor().dump(document, stream)
    return stream.getvalue()


def in_blocks(value: Any) -> Any:
    """Plain values whose texts of several lines will be written as they read, behind a `|`."""
    from ruamel.yaml.scalarstring import LiteralScalarString

    if isinstance(value, dict):
        return {key: in_blocks(child) for key, child in value.items()}
    if isinstance(value, list):
        return [in_blocks(child) for child in value]
    return LiteralScalarString(value) if isinstance(value, str) and "\n" in value else value


def _editor() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes, editor.width = True, _NEVER
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor
