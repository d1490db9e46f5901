"""Small questions about a history, one answer after each step: `count(Vote)`, `last(Halted.step)`.

    NAME                  all events of the class NAME, or messages received; a lower-case name is a kind of step
    NAME(field=value)     those whose field has this value, as diagrams show it: Vote(step=1), Halted(by=n0)
    sent(Vote(step=1))    messages that were sent, lost ones too
    Halted.step           this field of each, in order; `by`, `at` and `mark` are fields of all
    count(...)            how many
    first(...) last(...)  one of them      min(...) max(...)      of their values
    distinct(...)         without repetition

Nothing is run that is read: an expression is parsed into the questions above and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, get_args

from interlock.protocols.errors import Misused

from .draw import NAMES_NONE, note, shown
from .history import History, Kind, Step

LENGTH_MAX = 200
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z_0-9]*)|(-?[0-9]+(?:\.[0-9]+)?)|\"([^\"]*)\"|(.))")
_MISSING = object()
Values: TypeAlias = list[Any]


def _count(values: Values) -> Any:
    return len(values)


_FUNCTIONS: dict[str, Callable[[Values], Any]] = {
    "count": _count,
    "first": lambda values: values[0] if values else None,
    "last": lambda values: values[-1] if values else None,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "distinct": lambda values: list(dict.fromkeys(values)),
}


class Watch:
    """One expression over a history that grows.

    Args:
        names: labels of keys that occur in messages.

    Raises:
        Misused: E815, it is no expression.
    """

    def __init__(self, text: str, names: Mapping[bytes, str] = NAMES_NONE) -> None:
        self.text, self._names = text.strip(), names
        self._function = ""
        self._family, self._class, self._field = "", "", ""
        self._filters: dict[str, str] = {}
        self._found: Values = []
        if len(text) > LENGTH_MAX:
            raise self._wrong(f"at most {LENGTH_MAX} characters")
        self._tokens = [next(filter(None, match.groups()), "") for match in _TOKEN.finditer(self.text)]
        self._parse()

    def take(self, step: Step) -> None:
        """One more thing happened."""
        value = self._of(step)
        if value is not _MISSING:
            self._found.append(value)

    @property
    def value(self) -> Any:
        """The answer so far.

        Raises:
            Misused: E816, the values have no order.
        """
        try:
            return _FUNCTIONS[self._function](self._found) if self._function else list(self._found)
        except TypeError:
            raise Misused(816, f"--watch {self.text}: {self._function} of values that it cannot compare") from None

    @property
    def shown(self) -> str:
        """The answer as text."""
        value = self.value
        return "-" if value is None or value == [] else shown(value, self._names)

    # --- what a step says ---

    def _of(self, step: Step) -> Any:
        subject = self._subject(step)
        if subject is _MISSING:
            return _MISSING
        for name, wanted in self._filters.items():
            value = self._part(step, subject, name)
            if value is _MISSING or shown(value, self._names) != wanted:
                return _MISSING
        if self._field:
            return self._part(step, subject, self._field)
        if subject is not step:
            return shown(subject, self._names)
        return step.who + (f": {said}" if (said := note(step, self._names)) and step.kind != "crash" else "")

    def _subject(self, step: Step) -> Any:
        if self._family == "step":
            return step if step.kind == self._class else _MISSING
        if step.event is not None and self._family != "sent":
            what: Any = step.event
        elif step.message is not None and step.kind == ("send" if self._family == "sent" else "deliver"):
            what = step.message
        else:
            return _MISSING
        return what if any(kind.__name__ == self._class for kind in type(what).__mro__) else _MISSING

    @staticmethod
    def _part(step: Step, subject: Any, name: str) -> Any:
        if subject is not step and name in subject.__struct_fields__:
            return getattr(subject, name)
        if name == "by":
            return step.peer if step.kind == "deliver" else step.who
        if name == "receiver":
            return step.who if step.kind == "deliver" else step.peer
        if name in step.arguments:
            return step.arguments[name]
        return getattr(step, name) if name in ("at", "mark", "name", "number", "text") else _MISSING

    # --- the grammar ---

    def _parse(self) -> None:
        words = iter([*self._tokens, ""])
        word = next(words)
        if word in _FUNCTIONS:
            self._function = word
            self._expect(words, "(")
            word = self._query(next(words), words)
            if word != ")":
                raise self._wrong(") after the question")
            word = next(words, "")
        else:
            word = self._query(word, words)
        if word:
            raise self._wrong(f"nothing after it, not {word!r}")

    def _query(self, word: str, words: Iterator[str]) -> str:
        """Read a question; give the word after it."""
        if word == "sent" and not self._family:
            self._family = "sent"
            self._expect(words, "(")
            if self._query(next(words, ""), words) != ")":
                raise self._wrong(") after the class")
            return self._dotted(next(words, ""), words)
        self._class = word
        if not self._class.isidentifier():
            raise self._wrong("a class of events or messages, such as Vote")
        if self._class[:1].islower():
            if self._family or self._class not in get_args(Kind):
                raise self._wrong("a class such as Vote, or a kind of step: " + ", ".join(get_args(Kind)))
            self._family = "step"
        word = next(words, "")
        if word == "(":
            word = self._filter(words)
        return self._dotted(word, words)

    def _dotted(self, word: str, words: Iterator[str]) -> str:
        if word == "." and not self._field:
            self._field = next(words, "")
            if not self._field.isidentifier():
                raise self._wrong("a field after the dot")
            word = next(words, "")
        return word

    def _filter(self, words: Iterator[str]) -> str:
        while True:
            name = next(words, "")
            if not name.isidentifier():
                raise self._wrong("field=value inside the brackets")
            self._expect(words, "=")
            self._filters[name] = next(words, "")
            word = next(words, "")
            if word == ")":
                return next(words, "")
            if word != ",":
                raise self._wrong(") or , after a value")

    def _expect(self, words: Iterator[str], wanted: str) -> None:
        if next(words, "") != wanted:
            raise self._wrong(wanted)

    def _wrong(self, expected: str) -> Misused:
        return Misused(
            815,
            f"--watch {self.text[:LENGTH_MAX]}",
            expected=expected,
            actual=repr(self.text[:40]),
            todo="Examples: count(Vote), last(Halted.step), distinct(Vote(step=1).by), count(crash).",
        )


def watched(history: History, watches: list[Watch]) -> dict[str, list[str]]:
    """The answer to each expression after each step."""
    columns: dict[str, list[str]] = {watch.text: [] for watch in watches}
    for step in history:
        for watch in watches:
            watch.take(step)
            columns[watch.text].append(watch.shown)
    return columns
