"""A screen as an SVG picture: for documentation, and to look at what a change did."""

from __future__ import annotations

import asyncio
import re

from textual.pilot import Pilot

from selfalign.tui.app import PAGES, Reader
from selfalign.tui.page import Page, Place
from selfalign.tui.reading import Library

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
        return own_fonts(app.export_screenshot())


def own_fonts(svg: str) -> str:
    """A picture that fetches no font from elsewhere: it is drawn with those of whoever looks at it."""
    head, end, rest = svg.partition("</style>")
    head = re.sub(r"@font-face \{[^}]*\}\s*", "", head)
    return head.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}") + end + rest


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the screen shows what it read."""
    for _ in range(int(PATIENCE / 0.02)):
        page = pilot.app.screen
        if not isinstance(page, Page) or page.settled:
            break
        await asyncio.sleep(0.02)  # and not `pilot.pause`, which also waits for the process to be idle
    await pilot.pause(0.05)
