"""A screen as an SVG picture: for documentation, and to look at what a change did."""

from __future__ import annotations

import asyncio
import html
import re

from textual.pilot import Pilot

from selfalign.tui.app import PAGES, Reader
from selfalign.tui.page import Page, Place
from selfalign.tui.plotting import DOTS
from selfalign.tui.reading import Library

WIDTH, HEIGHT, BASE = 12.2, 24.4, 20.0  # of a character in the picture, and how far below its top the text is set
DOT = 3  # how wide and how high a dot is drawn
BRAILLE = re.compile("[\u2801-\u28ff]")
TEXT = re.compile(r'<text class="([^"]+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>')
FONTS = '"Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace'
PATIENCE = 15.0  # seconds in which a screen must have read its run


def picture(library: Library, place: Place, screen: str, size: tuple[int, int], keys: tuple[str, ...] = ()) -> str:
    """A screen, by its name in small letters, after some keys were pressed."""
    return asyncio.run(_picture(library, place, screen, size, keys))


async def _picture(library: Library, place: Place, screen: str, size: tuple[int, int], keys: tuple[str, ...]) -> str:
    app = Reader(library, place)
    kind = next(page for page in PAGES if page.NAME.lower() == screen)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        app.open(kind, place)
        await settled(pilot)
        for key in keys:
            await pilot.press(key)
            await settled(pilot)
        return drawn_dots(own_fonts(app.export_screenshot()))


def own_fonts(svg: str) -> str:
    """A picture that fetches no font from elsewhere: it is drawn with those of whoever looks at it."""
    head, end, rest = svg.partition("</style>")
    head = re.sub(r"@font-face \{[^}]*\}\s*", "", head)
    return head.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}") + end + rest


def drawn_dots(svg: str) -> str:
    """A picture whose curves are drawn: few fonts have braille characters that are as wide as their letters."""
    return TEXT.sub(lambda found: _dots(found) if BRAILLE.search(found[4]) else found[0], svg)


def _dots(found: re.Match[str]) -> str:
    words, left, top = html.unescape(found[4]), float(found[2]), float(found[3]) - BASE
    places = [
        (left + WIDTH * (place + (0.25, 0.75)[column]), top + HEIGHT * (2 * row + 1) / 8)
        for place, character in enumerate(words)
        if BRAILLE.match(character)
        for column, bits in enumerate(DOTS)
        for row, bit in enumerate(bits)
        if ord(character) & bit
    ]
    path = "".join(f"M{x - DOT / 2:.1f} {y - DOT / 2:.1f}h{DOT}v{DOT}h-{DOT}z" for x, y in places)
    rest = BRAILLE.sub("&#160;", found[4])
    return f'{found[0].replace(found[4], rest)}<path class="{found[1]}" d="{path}"/>'


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the screen shows what it read."""
    for _ in range(int(PATIENCE / 0.02)):
        page = pilot.app.screen
        if not isinstance(page, Page) or page.settled:
            break
        await asyncio.sleep(0.02)  # and not `pilot.pause`, which also waits for the process to be idle
    await pilot.pause(0.05)
