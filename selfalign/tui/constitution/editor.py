"""The editor of a constitution: looked over while one types, mended where that is certain, saved as it was typed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

from selfalign import drafts
from selfalign.constitution.diff import Diff, diff
from selfalign.constitution.lint import Finding
from selfalign.constitution.mending import mended
from selfalign.drafts import Draft, DraftError
from selfalign.store import StoreError
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.asking import Confirm
from selfalign.tui.constitution.bench import Asked, Bench
from selfalign.tui.constitution.changes import Changes, anew, compared, summary
from selfalign.tui.constitution.impact import Impact
from selfalign.tui.constitution.rules import Parsed, Subject
from selfalign.tui.page import Page, Place, key_name
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.widgets import Words, Writing

IDLE = 0.3  # seconds without a key after which the text is looked over
SHOWN = 4  # findings in sight
MARK = "\ufeff"  # of byte order: a file that begins with it keeps it
SEVERITIES = {"error": ("✗", shown.BAD), "warning": ("!", shown.WARN), "note": ("·", shown.NOTE)}
NOTHING_WRITTEN = "this reader writes nothing (--read-only)"


class Drafting(Page):
    """What the list and the editor share: the draft of the campaign's file, and what may be done with it."""

    class Prepared(Message):
        """What an impact preview would ask, or why there is nothing to ask."""

        def __init__(self, asked: Asked | None, found: Diff | None, trouble: str = "") -> None:
            super().__init__()
            self.asked, self.found, self.trouble = asked, found, trouble

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.subject: Subject | None = None
        self.parsed = Parsed()
        self._preparing = False

    @property
    def bench(self) -> Bench:
        return self.reader.bench

    @property
    def shut(self) -> str:
        """Why the file is not written by this screen; "" where it may be."""
        if self.reader.read_only:
            return NOTHING_WRITTEN
        return self.subject.shut if self.subject is not None else "the constitution is still being read"

    def may_write(self) -> bool:
        """Whether it may; where not, why not is said."""
        if self.shut:
            self.reader.say(self.shut)
        return not self.shut

    def action_difference(self) -> None:
        if self.subject is not None:
            self.app.push_screen(Changes(self.at, self.subject, self.bench, self.parsed))

    # The impact preview

    def action_preview(self) -> None:
        at = self.subject
        if self.reader.read_only:
            self.reader.say(f"a preview asks the judge: {NOTHING_WRITTEN}")
        elif at is not None:
            known = self.bench.asked.get(at.run)
            if known is not None and known.state == "asking":
                self._open_impact()
            elif not self._preparing:
                self._preparing = True
                self._prepare(at)

    @work(thread=True, group="prepare", exit_on_error=False, description="prepare")
    def _prepare(self, at: Subject) -> None:
        """Find out in a thread what is to be asked."""
        view = compared(at, self.bench, self.parsed)
        if view.found is None or at.file is None:
            self.post_message(self.Prepared(None, None, view.trouble))
            return
        try:
            draft = self.bench.draft(at.file)
            rules = self.parsed.load(draft.path, draft.text.removeprefix(MARK)).to_yaml()
            step = self.watched.run.view(f"rounds/{at.round:03d}/judgments")
            judged = step is not None and step.done
            self.post_message(self.Prepared(Asked(at.run, rules, at.round if judged else None), view.found))
        except UNREADABLE as error:
            self.post_message(self.Prepared(None, None, why(error)))

    def on_drafting_prepared(self, message: Drafting.Prepared) -> None:
        message.stop()
        self._preparing = False
        at, asked, found = self.subject, message.asked, message.found
        if at is None or asked is None or found is None:
            self.trouble([line for line in message.trouble.splitlines() if line])
            return
        known = self.bench.asked.get(at.run)
        if known is not None and known.state == "done" and (known.rules, known.round) == (asked.rules, asked.round):
            self._open_impact()
            return
        scoped = any(change.kind == "rescoped" for change in found.changes)
        if not (found.judged_anew or scoped):
            self.reader.say("no words changed: stored verdicts hold for all principles, so there is nothing to ask")
            return
        said = shown.lines([shown.line(summary(found)), anew(found), shown.block(PREVIEW)])

        def begin(sure: bool | None) -> None:
            if sure:
                self.bench.ask(asked)
                self._open_impact()

        self.app.push_screen(Confirm("Ask the run's judge what this edit would change?", said), begin)

    def _open_impact(self) -> None:
        assert self.subject is not None
        self.app.push_screen(Impact(self.at, self.subject, self.bench))

    # Another editor

    def in_other_editor(self) -> bool:
        """Hand the draft to $VISUAL or $EDITOR; whether it came back as another text."""
        if not self.may_write() or self.subject is None or self.subject.file is None:
            return False
        try:
            draft = self.bench.draft(self.subject.file)
            command, before = drafts.editor(), draft.text.encode("utf-8")
            copy = drafts.copy(draft.path, before)
            try:
                with self.app.suspend():
                    drafts.run_editor(command, copy)
                draft.text = copy.read_bytes().decode("utf-8")
            except BaseException:
                self._keep(copy, before)
                raise
            copy.unlink()
        except SuspendNotSupported:
            self.reader.say(
                f"this terminal cannot be handed over; use: selfalign constitution edit {self.subject.file}"
            )
        except (DraftError, *UNREADABLE) as error:
            self.reader.say(". ".join(filter(None, (str(error), getattr(error, "why", ""), getattr(error, "fix", "")))))
        else:
            changed = draft.text.encode("utf-8") != before
            if not changed:
                self.reader.say("nothing was changed")
            return changed
        return False

    def _keep(self, copy: Path, before: bytes) -> None:
        """What was typed outlives an editor that failed."""
        if copy.read_bytes() == before:
            copy.unlink()
        else:
            self.reader.say(f"what you typed is in {copy}")

    def typed_elsewhere(self) -> str:
        """The command that edits the file without this screen."""
        file = self.subject.file if self.subject is not None else None
        return f"selfalign constitution edit {file or 'FILE'}"


PREVIEW = (
    "Up to 200 stored pairs are judged by the old and by the new text. The judge is loaded as in a round, in a process "
    "of its own; where it is an endpoint, its price is paid. Its verdicts are kept beside the runs, and nothing is "
    "asked twice."
)


STALE = "changed on disk since it was opened, so not saved over; Ctrl+R reads it again"


@dataclass(frozen=True, slots=True)
class Opened:
    """A text to show, why it is not typed in here, and whether the file has changed since it was opened."""

    text: str
    shut: str
    stale: bool
    draft: Draft | None = None


class Editor(Drafting):
    NUMBER, NAME = "5", "Editor"
    ABOUT = (
        "The file that the campaign names. A round keeps the copy that it began with: what is saved here counts from "
        "the next round on that begins after it.\n\n"
        "While you pause, the text is checked against the schema and looked over for what would mislead a judge: "
        "✗ error, a campaign would refuse it; ! warning, labels would suffer; · note. F8 goes from finding to finding, "
        "F2 writes the mend of the one that is pointed at, where only one thing can be meant.\n\n"
        "Saved is the text as it was typed, comments and all. Nothing is saved while there are errors, nor over what "
        "somebody else has written since. What is not saved is kept beside the file, hidden, and is back when the file "
        "is opened again, whatever ended this reader; Ctrl+R drops it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "save", priority=True),
        Binding("f8", "finding(1)", "finding", priority=True),
        Binding("shift+f8", "finding(-1)", "finding before", priority=True, show=False),
        Binding("f2", "mend", "write the mend of a finding", priority=True, show=False),
        Binding("f4", "other_editor", "$EDITOR", priority=True),
        Binding("f5", "preview", "preview", priority=True),
        Binding("f6", "difference", "diff", priority=True),
        Binding("ctrl+r", "reload", "read the file again", priority=True, show=False),
        Binding("f1", "app.help", "help", priority=True),
        Binding("escape", "leave", "back", priority=True),
        Binding("ctrl+z", "", "undo; Ctrl+Y redoes", show=False),
    ]
    LAST_KEYS = (("F1", "help"), ("Esc", "back"))
    WRITES = frozenset({"ctrl+s", "f2", "f4", "f5", "ctrl+z"})
    DEFAULT_CSS = """
    Editor #findings { height: auto; max-height: 9; padding: 0 2; background: $surface; }
    """

    class Looked(Message):
        """What was found in a text."""

        def __init__(self, text: str, findings: Sequence[Finding], mends: Sequence[int], trouble: str = "") -> None:
            super().__init__()
            self.text, self.findings, self.mends, self.trouble = text, findings, mends, trouble

    class Checked(Message):
        """What saving would mean, or what forbids it."""

        def __init__(self, text: str, refused: Sequence[Finding], said: Text | None, trouble: str = "") -> None:
            super().__init__()
            self.text, self.refused, self.said, self.trouble = text, refused, said, trouble

    class Saved(Message):
        """The file was written, or why not."""

        def __init__(self, trouble: str = "", *, stale: bool = False) -> None:
            super().__init__()
            self.trouble, self.stale = trouble, stale

    class Unkept(Message):
        """What is not saved could not be kept on disk."""

        def __init__(self, trouble: str) -> None:
            super().__init__()
            self.trouble = trouble

    def __init__(self, place: Place, subject: Subject, parsed: Parsed, principle: str = "") -> None:
        super().__init__(place)
        self.subject, self.parsed, self.principle = subject, parsed, principle
        self.findings: Sequence[Finding] = ()
        self.mends: set[int] = set()
        self.finding = 0
        self._draft: Draft | None = None
        self._dropped: Path | None = None  # whose text is thrown away with the next reading
        self._warned = False  # that what is not saved is not kept
        self._why = ""  # not typed in
        self._looked: str | None = None  # the text that was looked over last
        self._looking = False
        self._pause: Timer | None = None

    def body(self) -> Iterator[Widget]:
        yield Writing(id="writing")
        yield Words(id="findings")

    @property
    def writing(self) -> Writing:
        return self.query_one(Writing)

    def main(self) -> Widget | None:
        return self.writing

    def all_keys(self) -> list[Binding]:
        return self.own_keys()

    def named_keys(self) -> list[tuple[str, str]]:
        """The others are letters here, or in LAST_KEYS."""
        last = {key for key, _ in self.LAST_KEYS}
        return [
            (key_name(one.key), one.description)
            for one in self.own_keys()
            if one.show and key_name(one.key) not in last
        ]

    @property
    def settled(self) -> bool:
        looked = self._draft is None or self._looked == self._draft.text
        return self.ready and looked and not (self._looking or self._preparing)

    # Reading the file

    def read(self) -> Opened:
        at = self.subject
        assert at is not None
        dropped, self._dropped = self._dropped, None
        if dropped is not None:
            self.bench.drop(dropped)
        elif self._draft is not None and self._draft.unsaved:
            return Opened("", "", self._draft.stale)
        if at.file is not None and not at.shut:
            draft = self.bench.draft(at.file)
            return Opened(draft.text, drafts.unfit(draft.text), stale=False, draft=draft)
        source = at.frozen or at.file
        return Opened(source.read_text("utf-8", "replace") if source is not None else "", at.shut, stale=False)

    def show(self, view: Opened) -> None:
        if self._dropped is not None:  # what was read is dropped by now
            self.renew()
            return
        if view.stale:
            self.trouble([STALE])
        elif self._draft is not None and self._draft.unsaved:  # typed while the file was read
            self.bench.drafts[self._draft.path] = self._draft
        else:
            self._draft = view.draft
            self._take(view)
        self._title()

    def _take(self, view: Opened) -> None:
        """Show a text that was read, unless it is in sight already."""
        reason = NOTHING_WRITTEN if self.reader.read_only and not view.shut else view.shut
        unfit = self._draft is not None and bool(view.shut)
        self._why = f"{reason}; F4 opens your own editor" if unfit and not self.reader.read_only else reason
        self.trouble([*self._taken_up(), *[f"not edited here: {self._why}"] * bool(self._why)])
        self.writing.read_only = bool(self._why)
        text = readable(view.text.removeprefix(MARK)) if self._why else view.text.removeprefix(MARK)
        if not self.ready or self.writing.text != text:
            self.writing.load_text(text)
            if not self.ready:
                self._go_to_principle()
        self._look()

    def _taken_up(self) -> Iterator[str]:
        """What became of a text that was typed before, and not saved."""
        draft = self._draft
        if draft is not None and draft.lost:
            yield draft.lost
        if draft is not None and draft.unsaved and draft.back:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(draft.back))
            yield f"unsaved text of {when} is back; Ctrl+S saves, Ctrl+R drops it"

    def _go_to_principle(self) -> None:
        named = re.compile(rf"(?:^|[\s{{,])id:\s*[\"']?{re.escape(self.principle)}[\"']?\s*(?:[,}}#]|$)")
        for number, line in enumerate(self.writing.text.split("\n")):
            if self.principle and named.search(line):
                self.writing.move_cursor((number, 0), center=True)
                return

    def _title(self) -> None:
        at, draft = self.subject, self._draft
        assert at is not None
        if draft is None:
            where = f"round {at.round}'s own copy" if at.frozen is not None else str(at.file or "no file")
            self.title_is((where, "bold"), ("  read only", shown.WARN))
            return
        state = ("✎ unsaved", shown.WARN) if draft.unsaved else ("✓ as on disk", shown.GOOD)
        counts = (f"  counts from the next round that begins  {draft.path}", shown.DIM)
        self.title_is((draft.path.name, "bold"), "  ", state, counts)

    # Looking it over

    def on_text_area_changed(self, message: Writing.Changed) -> None:
        message.stop()
        if self._draft is None or self.writing.read_only:
            return
        mark = MARK if self._draft.text.startswith(MARK) else ""
        self._draft.text = mark + self.writing.text
        self._title()
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(IDLE, self._look)

    def _look(self) -> None:
        if self._draft is not None and not self._looking and self._looked != self._draft.text:
            self._looking = True
            self._look_over(self._draft, self._draft.text)

    @work(thread=True, group="lint", exit_on_error=False, description="lint")
    def _look_over(self, draft: Draft, text: str) -> None:
        self._keep_unsaved(draft)
        try:
            findings = Draft(draft.path, draft.before, text).findings()
            mends = [index for index, one in enumerate(findings) if mended(text, one) is not None]
            self.post_message(self.Looked(text, findings, mends))
        except UNREADABLE as error:
            self.post_message(self.Looked(text, (), (), why(error)))

    def _keep_unsaved(self, draft: Draft) -> None:
        """Have on disk what is not saved, in a thread."""
        try:
            draft.keep()
        except StoreError as error:
            self.post_message(self.Unkept(str(error)))

    def on_editor_unkept(self, message: Editor.Unkept) -> None:
        if not self._warned:
            self._warned = True
            self.trouble([f"what is not saved is in memory alone, save it soon: {message.trouble}"])

    def on_editor_looked(self, message: Editor.Looked) -> None:
        self._looking, self._looked = False, message.text
        self.findings, self.mends = message.findings, set(message.mends)
        self.finding = max(0, min(self.finding, len(self.findings) - 1))
        self._show_findings(message.trouble)
        self._look()  # where more was typed meanwhile

    def _show_findings(self, trouble: str = "") -> None:
        marks: dict[int, tuple[str, str]] = {}
        for one in reversed(self.findings):
            if one.line is not None and self._here(one):
                marks[one.line] = SEVERITIES[one.severity]
        self.writing.marks(marks)
        words = self.query_one("#findings", Words)
        if trouble or not self.findings:
            words.say((f"! {trouble}", shown.WARN) if trouble else ("✓ nothing to mend", shown.GOOD))
        else:
            words.show(shown.lines(self._listed()))

    def _here(self, one: Finding) -> bool:
        return self._draft is not None and one.file == str(self._draft.path)

    def _listed(self) -> Iterator[Text]:
        """The findings around the one that is pointed at, which is told whole."""
        first = max(0, min(self.finding - 1, len(self.findings) - SHOWN))
        counts = {kind: sum(one.severity == kind for one in self.findings) for kind in SEVERITIES}
        said = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items() if count)
        yield shown.line((said, "bold"), ("   F8 goes to the next", shown.DIM))
        for index, one in list(enumerate(self.findings))[first : first + SHOWN]:
            sign, style = SEVERITIES[one.severity]
            where = f"line {one.line}" if self._here(one) else f"{Path(one.file).name}:{one.line}"
            at = index == self.finding
            yield shown.line(
                "▸ " if at else "  ", (f"{sign} {where}  ", style), (one_line(one.message), "bold" if at else "")
            )
            if at and one.fix:
                mend = ("   F2 writes it", shown.SKY) if index in self.mends and not self.writing.read_only else ""
                fix = shown.line((f"      → {one_line(one.fix)}", shown.DIM), mend)
                fix.no_wrap = False
                yield fix

    def action_finding(self, by: int) -> None:
        """Point at the next finding, and put the cursor on its line."""
        if not self.findings:
            self.reader.say("nothing to mend" if self.settled else "still being looked over")
            return
        line = self.writing.cursor_location[0] + 1
        here = self.findings[self.finding].line
        self.finding = (self.finding + by) % len(self.findings) if line == here else self.finding
        one = self.findings[self.finding]
        if one.line is not None and self._here(one):
            self.writing.move_cursor((one.line - 1, 0), center=True)
        self._show_findings()

    def action_mend(self) -> None:
        """Write the mend of the finding that is pointed at, else of the next one that has one."""
        ways = [*range(self.finding, len(self.findings)), *range(self.finding)]
        index = next((index for index in ways if index in self.mends), None)
        text = mended(self.writing.text, self.findings[index]) if index is not None else None
        if text is None or not self.may_write() or self.writing.read_only:
            self.reader.say("nothing here that only one thing can be meant by: write it yourself")
            return
        self.writing.put(text)

    # Saving

    def action_save(self) -> None:
        if not self.may_write():
            return
        if self._draft is None or not self._draft.unsaved:
            self.reader.say("nothing to save: the file is as it stands here")
            return
        self._check(self._draft, self._draft.text)

    @work(thread=True, group="save", exit_on_error=False, description="save")
    def _check(self, draft: Draft, text: str) -> None:
        """Find out in a thread whether a text may be saved, and what that means."""
        try:
            findings = Draft(draft.path, draft.before, text).findings()
            refused = [one for one in findings if one.rule == "refused"]
            said = None if refused else self._meaning(draft, text, findings)
            self.post_message(self.Checked(text, refused, said))
        except UNREADABLE as error:
            self.post_message(self.Checked(text, (), None, why(error)))

    def _meaning(self, draft: Draft, text: str, findings: Sequence[Finding]) -> Text:
        """What saving changes, told before it is done."""
        lines: list[Text] = []
        new = self.parsed.load(draft.path, text.removeprefix(MARK))
        try:
            found = diff(self.parsed.load(draft.path, draft.opened.removeprefix(MARK)), new)
            lines += [shown.line(f"against the file: {summary(found)}")]
        except UNREADABLE:
            lines += [shown.line("the file could not be read as a constitution until now")]
        view = compared(self.subject, self.bench, self.parsed) if self.subject else None
        if view is not None and view.found is not None and self.subject is not None:
            lines += [shown.line(f"against round {self.subject.round}: {summary(view.found)}"), anew(view.found)]
        if any(one.rule == "same-version" for one in findings):
            lines.append(shown.line((f"! other words, and still version {one_line(new.version)}", shown.WARN)))
        others = [one for one in findings if one.rule != "same-version"]
        lines += [_wrapped(shown.line((f"! {one_line(one.message)}", shown.WARN))) for one in others[:SHOWN]]
        return shown.lines(lines)

    def on_editor_checked(self, message: Editor.Checked) -> None:
        if message.trouble or message.refused:
            count = f"not saved: {len(message.refused)} errors. " if len(message.refused) > 1 else "not saved. "
            first = message.refused[0] if message.refused else None
            self.trouble([count + (f"line {first.line}: {first.message}" if first else message.trouble)])
            if first is not None and first.line is not None and self._here(first):
                self.writing.move_cursor((first.line - 1, 0), center=True)
        elif message.said is not None and self._draft is not None:
            self.app.push_screen(Confirm(f"Save {self._draft.path.name}?", message.said), self._save_if)

    def _save_if(self, sure: bool | None) -> None:
        if sure and self._draft is not None:
            self._save(self._draft)

    @work(thread=True, group="save", exit_on_error=False, description="save")
    def _save(self, draft: Draft) -> None:
        try:
            draft.save()
            self._keep_unsaved(draft)
            self.post_message(self.Saved())
        except DraftError as error:
            self.post_message(self.Saved(str(error), stale=True))
        except UNREADABLE as error:
            self.post_message(self.Saved(why(error)))

    def on_editor_saved(self, message: Editor.Saved) -> None:
        if message.stale:
            said = shown.block(
                f"{message.trouble}. It is not written over. Read it again? What was typed here is dropped."
            )
            self.app.push_screen(Confirm("The file is another one by now", said), self._reload_if)
        elif message.trouble:
            self.trouble([f"not saved: {message.trouble}"])
        else:
            self.trouble([])
            self.reader.say("saved; it counts from the next round that begins")
            self._looked = None
            self._look()
        self._title()

    def action_reload(self) -> None:
        if self._draft is not None and self._draft.unsaved:
            said = shown.block(f"{self._draft.path}\nWhat was typed here is dropped.")
            self.app.push_screen(Confirm("Read the file again?", said), self._reload_if)
        elif self._draft is not None:
            self._reload_if(True)

    def _reload_if(self, sure: bool | None) -> None:
        if sure and self._draft is not None:
            self._dropped = self._draft.path
            self._draft, self._looked, self.ready = None, None, False
            self.renew()

    # Leaving

    def action_other_editor(self) -> None:
        if self.in_other_editor() and self._draft is not None:
            unfit = drafts.unfit(self._draft.text)
            self._take(Opened(self._draft.text, unfit, stale=False))
        self._title()

    def action_leave(self) -> None:
        if self._draft is None or not self._draft.unsaved:
            self.app.pop_screen()
            return
        said = shown.block("They stay here until you quit: i goes on with them, Ctrl+R in the editor drops them.")

        def leave(sure: bool | None) -> None:
            if sure:
                self.app.pop_screen()

        self.app.push_screen(Confirm("Leave with unsaved changes?", said), leave)

    def command(self) -> str:
        return self.typed_elsewhere()

    def copied(self) -> str:
        return self.writing.text


def readable(text: str) -> str:
    """A text that is only read here: of a very long one, and of very long lines, the beginning."""
    lines = text[: drafts.LARGEST].split("\n")
    return "\n".join(line[: drafts.LONGEST_LINE] for line in lines)


def _wrapped(text: Text) -> Text:
    text.no_wrap = False
    return text
