"""What the report pages say, as a screen shows it: the same words, without the drawings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import table as rich_table
from rich.text import Text

from selfalign.stages.report.document import Block, Heading, Paragraph, Table
from selfalign.tui import shown

STYLES = {"good": shown.GOOD, "bad": shown.BAD}


def told(blocks: Iterable[Block]) -> rich_table.Table:
    """Headings, paragraphs and tables one below the other; figures and dialogues, which screens draw, are left out."""
    return shown.below(*(part for block in blocks for part in _parts(block)))


def _parts(block: Block) -> Iterator[Text | rich_table.Table]:
    if isinstance(block, Heading):
        yield shown.line((block.text, "bold"))
    elif isinstance(block, Paragraph):
        yield shown.block(block.text, STYLES.get(block.kind, ""))
    elif isinstance(block, Table):
        if block.caption:
            yield shown.block(block.caption, shown.DIM)
        right = tuple(range(block.numbers_from, len(block.columns)))
        yield shown.table(block.columns, block.rows, right=right)
