"""Arguments that the commands of lists share, with what help says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

RunName = Annotated[str, Parameter(help="A run: a name or a path.")]
Runs = Annotated[Path, Parameter(help="The folder of runs.")]
Json = Annotated[bool, Parameter(help="Print JSON, with the whole texts.")]
Round = Annotated[int | None, Parameter(help="Only this round, counted from 0.")]
Limit = Annotated[int, Parameter(name=["--limit", "-n"], help="List at most so many; 0 lists all.")]
OutFile = Annotated[Path, Parameter(help="The file to write. It must not exist.")]
Backend = Literal["auto", "vllm", "transformers"] | None
