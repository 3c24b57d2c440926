"""A document of a few kinds of blocks, and its two forms: Markdown and self-contained HTML.

The text in a block is foreign: each form cleans and escapes it on its own. Only a figure's SVG is ours.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfalign.text import clean


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    kind: str = ""  # "good" or "bad" for a decision; the words say it too


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts. The columns from `numbers_from` on stand to the right; `caption` says what is counted."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numbers_from: int = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, and the same in words for Markdown and for those who cannot see it."""

    svg: str
    words: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Labelled texts, one after the other: a conversation and the answers to it."""

    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks under a title, closed at first unless they are `open`."""

    title: str
    blocks: tuple[Block, ...]
    open: bool = False


Block = Heading | Paragraph | Table | Figure | Dialogue | Fold

# Markdown ----------------------------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$@]|^[-+#=]|(?<=^\d)\.(?=\s)|:(?=//)|(?<=www)\.)")


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The document as GitHub-flavoured Markdown."""
    return "\n\n".join([f"# {markdown(title)}", *(part for block in blocks for part in _markdown_parts(block))]) + "\n"


def markdown(text: str) -> str:
    """Text on one line in which Markdown finds nothing to interpret."""
    return _MARKDOWN.sub(r"\\\1", " ".join(clean(text).split()))


def fenced(text: str) -> str:
    """Text as a code block, whose fence is longer than any in the text."""
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}text\n{clean(text)}\n{fence}"


def _markdown_parts(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {markdown(text)}"
        case Paragraph(text):
            yield markdown(text)
        case Table():
            yield _markdown_table(block)
        case Figure(_, words):
            yield markdown(words)
        case Dialogue(turns):
            for label, text in turns:
                yield f"**{markdown(label)}**"
                yield fenced(text)
        case Fold(title, blocks):
            yield f"### {markdown(title)}"
            for inner in blocks:
                yield from _markdown_parts(inner)


def _markdown_table(table: Table) -> str:
    rules = ["---" if index < table.numbers_from else "---:" for index in range(len(table.columns))]
    lines = [table.columns, rules, *table.rows]
    text = "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)
    return f"{markdown(table.caption)}\n\n{text}" if table.caption else text


def _markdown_cell(text: str) -> str:
    return text if re.fullmatch("-+:?", text) else markdown(text)


# HTML --------------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --dim: #5b6570; --paper: #fff; --line: #d8dde3; --soft: #f4f6f8;
  --a: #0b62a8; --b: #a8540b; --good: #1a6b35; --bad: #a3211f; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe4ea; --dim: #98a3ae; --paper: #14181d; --line: #343b44;
  --soft: #1d232a; --a: #6db3f2; --b: #f0a35c; --good: #6cc98a; --bad: #f08a86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4rem 0 1rem; }
caption { text-align: left; color: var(--dim); padding-bottom: .3rem; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; } .n { text-align: right; white-space: nowrap; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
svg { max-width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
svg .title { fill: var(--ink); font-weight: 600; font-size: 12px; }
.grid { stroke: var(--line); } .limit { stroke: var(--dim); stroke-dasharray: 4 3; }
.a { stroke: var(--a); fill: var(--a); } .b { stroke: var(--b); fill: var(--b); }
path.a, path.b { fill: none; stroke-width: 2; } svg text.a { fill: var(--a); stroke: none; }
svg text.b { fill: var(--b); stroke: none; }
.kept { stroke: var(--good); } .stopped { stroke: var(--bad); stroke-dasharray: 2 3; }
svg text.kept { fill: var(--good); stroke: none; } svg text.stopped { fill: var(--bad); stroke: none; }
dl { margin: .6rem 0 1.4rem; border-left: 3px solid var(--line); padding-left: .9rem; }
dt { font-size: .8rem; font-weight: 600; color: var(--dim); margin-top: .5rem; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one HTML file: no script, nothing loaded, and a policy that says so to the browser."""
    allowed = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(_html_blocks(blocks))
        + "\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    return html.escape(clean(text), quote=True)


def _html_blocks(blocks: Sequence[Block]) -> Iterator[str]:
    """The blocks; figures that follow one another share a row."""
    figures: list[str] = []
    for block in blocks:
        if isinstance(block, Figure):
            figures.append(f"<figure>{block.svg}</figure>")
            continue
        if figures:
            yield f'<div class="figures">{"".join(figures)}</div>'
            figures = []
        yield _html(block)
    if figures:
        yield f'<div class="figures">{"".join(figures)}</div>'


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, kind):
            return f'<p class="{kind}">{escape(text)}</p>' if kind in ("good", "bad") else f"<p>{escape(text)}</p>"
        case Table():
            return _html_table(block)
        case Dialogue(turns):
            inner = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in turns)
            return f"<dl>{inner}</dl>"
        case Fold(title, blocks, is_open):
            inner = "\n".join(_html_blocks(blocks))
            return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>\n{inner}\n</details>"
    raise TypeError(f"a {type(block).__name__} is no block")


def _html_table(table: Table) -> str:
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    head = _html_row("th", table.columns, table.numbers_from)
    body = "\n".join(_html_row("td", row, table.numbers_from) for row in table.rows)
    return f'<div class="scroll"><table>{caption}\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _html_row(tag: str, cells: Sequence[str], numbers_from: int) -> str:
    parts = [
        f'<{tag} class="n">{escape(cell)}</{tag}>' if index >= numbers_from else f"<{tag}>{escape(cell)}</{tag}>"
        for index, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(parts)}</tr>"
