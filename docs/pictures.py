"""The pictures of the terminal reader in the README: python docs/pictures.py [--run runs/pocket]

They are of a run of the pocket world, which is made first where none is named (minutes). In the pictures it lies in
`runs`, wherever it does. Pictures that are to change: a line each in PICTURES.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
SIZE = "120x36"
LARGEST = 150_000  # bytes of a picture
PICTURES: dict[str, tuple[str, ...]] = {
    "campaign": ("campaign",),
    "round": ("round", "--round", "2"),
    "pair": ("pairs", "--press", "s enter"),
    "constitution": ("constitution",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run of `selfalign run pocket`; default: make one")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if run is None:
            _selfalign(folder, "run", "pocket", "--display", "plain", shown=True)
        else:
            (folder / "runs").mkdir()
            (folder / "runs" / "pocket").symlink_to(run.resolve())
        for picture, screen in PICTURES.items():
            _draw(folder, FOLDER / f"{picture}.svg", screen)


def _draw(folder: Path, path: Path, screen: tuple[str, ...]) -> None:
    svg = _selfalign(folder, "tui", "pocket", "--size", SIZE, "--screenshot", *screen)
    for trace in (str(folder), str(Path.home())):
        assert trace not in svg, f"{path.name} shows {trace}"
    size = len(svg.encode())
    assert size < LARGEST, f"{path.name} has {size:,} bytes"
    path.write_text(svg, encoding="utf-8")
    print(f"{path.relative_to(ROOT)}  {size / 1000:.0f} kB")


def _selfalign(folder: Path, *arguments: str, shown: bool = False) -> str:
    command = [sys.executable, "-m", "selfalign", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = None if shown else subprocess.PIPE
    return subprocess.run(command, check=True, cwd=folder, env=environment, stdout=output, text=True).stdout


if __name__ == "__main__":
    main()
