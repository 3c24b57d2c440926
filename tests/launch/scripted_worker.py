"""An inference worker with a scripted engine in place of a model: `python scripted_worker.py`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    EngineError,
    GenerateRequest,
    Generation,
    Rewarded,
    Sampling,
    ScoreRequest,
)
from selfalign.launch import worker


class Echo:
    """Answers with the model's name and the question. Some questions make trouble."""

    dtype = "float32"

    def __init__(self, model: str) -> None:
        self.model, self.awake = model, True
        ECHOES.append(self)

    def accepts(self, model: str) -> bool:
        return model.split("-")[0] == self.model.split("-")[0]

    def load(self, model: str) -> None:
        self.model, self.awake = model, True

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        for request in requests:
            yield Rewarded(request.id, float(sum(request.token_ids)))

    def sleep(self) -> None:
        self.model += " slept"
        self.awake = False

    def check_labels(self, labels: Sequence[str]) -> None:
        if any(len(label) > 1 for label in labels):
            raise EngineError("a label is not a single token")

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        print("noise on stdout must not reach the controller")
        for request in requests:
            text = request.messages[-1].content
            if text == "die":
                os._exit(7)
            if text == "fail":
                raise EngineError("the engine failed")
            yield Generation(request.id, f"{self.model}: {text}", (1, 2), "stop", -0.5, sampling.max_tokens)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            yield Choice(request.id, (0.75, 0.25), " ".join(echo.model for echo in ECHOES if echo.awake), 3, 0.0)


ECHOES: list[Echo] = []

if __name__ == "__main__":
    worker.engines.open_engine = lambda model, settings, **_: Echo(model)
    worker.main()
