"""People and the judge: what they can be asked of a run, their labels in other tools' files, what comes of them."""
