"""The embedded default: a small world whose truth is known, with a policy and a judge that run on any CPU."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
POLICY = FOLDER / "models" / "policy"
JUDGE = FOLDER / "models" / "judge"
