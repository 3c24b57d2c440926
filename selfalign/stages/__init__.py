"""The stages of a round: each a function from records to records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from selfalign.records import WHOLE

if TYPE_CHECKING:
    from selfalign.constitution import Constitution
    from selfalign.records import Judgment


class StageError(RuntimeError):
    """A stage cannot go on: what, why and what to do next, in one message."""


def check_principles(judgments: Iterable[Judgment], constitution: Constitution) -> None:
    """Raise StageError if a judgment is by a principle that the constitution does not have."""
    known = {*(principle.id for principle in constitution.principles), WHOLE}
    for judgment in judgments:
        if judgment.principle_id not in known:
            raise StageError(
                f"judgment {judgment.id} is by principle {judgment.principle_id!r}, which the constitution "
                f"{constitution.name} does not have; the judgments belong to another constitution"
            )
