"""A trainer process: `python -m selfalign.training JOB.json`, on its own or through `accelerate launch`.

With `-` for the job, everything slow is imported first and the job's path is read as a line of stdin, so that the
process can be started while another stage still runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

EXIT_INTERRUPTED = 130


class StopRequest:
    """Set by SIGTERM or SIGINT: finish the optimizer step in hand, save, and end. A second signal ends at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m selfalign.training JOB.json\n")
        return 2
    stop = StopRequest()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from selfalign.training.job import read_job
    from selfalign.training.loop import Stopped
    from selfalign.training.trainer import REFUSALS, train

    path = sys.stdin.readline().strip() if arguments[0] == "-" else arguments[0]
    if not path:
        return 0
    try:
        train(read_job(Path(path)), lambda: stop.requested)
    except Stopped:
        sys.stderr.write("training stopped as asked; its checkpoint is saved: run the same command again to go on\n")
        return EXIT_INTERRUPTED
    except REFUSALS as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
