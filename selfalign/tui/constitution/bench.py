"""What outlives a screen: constitutions that were typed and not saved, and impact previews that a judge is asked for.

A preview runs in a process of its own, for a judge is a model, and none is ever loaded by the reader.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from selfalign.drafts import Draft, protected

PROGRAM = (sys.executable, "-m", "selfalign")
KEPT = 40  # lines that the process said last
GRACE = 3.0  # seconds between interrupting the process and killing it


class Asked:
    """An impact preview of a constitution, asked for in the background. `state` is what became of it."""

    def __init__(self, run: Path, rules: str, round: int | None) -> None:
        self.run, self.rules, self.round = run, rules, round
        self.state = "asking"  # then done, failed, or cancelled
        self.found: dict[str, Any] = {}
        self.said: deque[str] = deque(maxlen=KEPT)
        self.begun, self.ended = time.monotonic(), 0.0
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return (self.ended or time.monotonic()) - self.begun

    def start(self) -> None:
        self.begun = time.monotonic()  # it may have waited for a yes
        threading.Thread(target=self._ask, daemon=True).start()

    def command(self, file: str) -> list[str]:
        """The words of the command line."""
        rounds = ["--round", str(self.round)] if self.round is not None else []
        return ["constitution", "preview", str(self.run), "--constitution", file, *rounds]

    def _ask(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="selfalign-") as folder:
                file = Path(folder) / "edited.yaml"
                file.write_text(self.rules, encoding="utf-8")
                self._follow([*PROGRAM, *self.command(str(file)), "--json"])
        except (OSError, ValueError) as error:
            self.said.append(str(error))
            self._end("failed")

    def _follow(self, command: list[str]) -> None:
        """Run the command to its end, and read what it says on the way and what it found."""
        with self._lock:
            if self.state != "asking":
                return
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", errors="replace", start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        told = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        told.start()
        printed = process.stdout.read()
        code = process.wait()
        told.join(GRACE)
        if code == 0:
            self.found = json.loads(printed)
        self._end("done" if code == 0 else "failed")

    def _listen(self, stream: Any) -> None:
        for line in stream:
            self.said.append(line.rstrip("\n"))

    def _end(self, state: str) -> None:
        with self._lock:
            if self.state == "asking":
                self.state = state
            self.ended = self.ended or time.monotonic()

    def cancel(self) -> None:
        """Interrupt the process, which ends those that it has started; soon it is killed."""
        with self._lock:
            if self.state != "asking":
                return
            self.state, self.ended, process = "cancelled", time.monotonic(), self._process
        if process is not None:
            _signal(process, signal.SIGINT)
            threading.Thread(target=_end, args=(process,), daemon=True).start()

    def kill(self) -> None:
        """Interrupt the process, and return when it has ended."""
        self.cancel()
        if self._process is not None:
            _end(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """To the process and to all of its session; its leader's id is no other's while it was not waited for."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


class Bench:
    """The drafts by their files, and the last preview of each run.

    `resumes`: a file is opened with what was typed in it before a crash, and not saved.
    """

    def __init__(self, *, resumes: bool) -> None:
        self.resumes = resumes
        self.drafts: dict[Path, Draft] = {}
        self.asked: dict[Path, Asked] = {}

    def draft(self, path: Path) -> Draft:
        """The draft of a file; one without unsaved changes is opened anew where the file has changed."""
        path = path.resolve()
        known = self.drafts.get(path)
        if known is None:
            resumes = self.resumes and not protected(path)
            known = self.drafts[path] = Draft.resume(path) if resumes else Draft.open(path)
        elif not known.unsaved and known.stale:
            known = self.drafts[path] = Draft.open(path)
        return known

    def drop(self, path: Path) -> None:
        """Throw away what was typed in a file and not saved."""
        self.drafts[path].drop()
        del self.drafts[path]

    def unsaved(self) -> list[Path]:
        return [path for path, draft in self.drafts.items() if draft.unsaved]

    def ask(self, asked: Asked) -> None:
        """Begin a preview; one of the same run that is still asked for ends."""
        if (before := self.asked.get(asked.run)) is not None:
            before.cancel()
        self.asked[asked.run] = asked
        asked.start()

    def close(self) -> None:
        for asked in self.asked.values():
            asked.kill()
