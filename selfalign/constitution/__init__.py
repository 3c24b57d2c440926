"""The constitution as a living document: principles as data, and all that is done with them.

`model` what a principle is · `together` all of them as one · `loading` from files, with the place of every mistake ·
`editing` files that keep their comments · `lint` what a judge would stumble over · `mending` what of it is certain ·
`diff` what an edit means ·
`importing` and `exporting` what others read and write.
"""

from selfalign.constitution.editing import dump, open_document
from selfalign.constitution.exporting import to_text
from selfalign.constitution.loading import ConstitutionError, check_document, load
from selfalign.constitution.model import (
    AppliesWhen,
    Constitution,
    Example,
    Level,
    Principle,
    Rubric,
    Source,
)
from selfalign.constitution.together import by_id, whole

__all__ = [
    "AppliesWhen",
    "Constitution",
    "ConstitutionError",
    "Example",
    "Level",
    "Principle",
    "Rubric",
    "Source",
    "by_id",
    "check_document",
    "dump",
    "load",
    "open_document",
    "to_text",
    "whole",
]
