"""Screens as pictures that look the same wherever they are opened."""

from __future__ import annotations

import re

from selfalign.tui.pictures import drawn_dots, own_fonts


def test_dots_are_drawn_where_a_terminal_has_them() -> None:
    text = '<text class="r5" x="24.4" y="44.4" textLength="36.6" clip-path="url(#line-1)">\u2801&lt;\u2880</text>'
    words, path = drawn_dots(text).split("</text>")
    assert words.endswith(">&#160;&lt;&#160;")
    assert path.startswith('<path class="r5"')
    # The first dot of the first character, whose left edge is at 24.4 and whose top is at 24.4; the last of the third.
    starts = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h3v3h-3z", path)]
    assert starts == [(25.9, 25.9), (56.4, 44.2)]  # 24.4 + 3.05 - 1.5 is cut; 48.8 + 9.15 - 1.5; 24.4 + 21.35 - 1.5


def test_text_without_dots_stays_as_it_is() -> None:
    text = '<text class="r1" x="0" y="20">plain &amp; &#160;</text>'
    assert drawn_dots(text) == text


def test_no_font_is_fetched() -> None:
    svg = "<style>@font-face { src: url(https://example.org/a.woff2) } .t { font-family: Fira Code, monospace }</style>"
    assert "http" not in own_fonts(svg) and "DejaVu Sans Mono" in own_fonts(svg)
