"""How `up` and `demo` show a run: a live table on a terminal, lines elsewhere, or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from ..journal import Answered, Changed, Joined
from ..orders import Order
from ..service import machine
from ..service.local import Ended, Local
from ..service.progress import Evaluated, Mark, Trained, Void
from ..service.report import speed
from .app import note, say, say_json, visible

EVERY = 10  # rounds between lines where there is no terminal
ABOUT = len("validation")  # letters in front of a line
_RECENT = 10  # rounds that the speed is measured over
_QUIET_S = 15  # an evaluation in the demo takes less


class Lines:
    """Shows lines with what each is about: once, or live in place where there is a terminal."""

    def __init__(self, *, live: bool) -> None:
        self._console = Console(markup=False, emoji=False, highlight=False)  # names in it are what others say
        on_terminal = live and self._console.is_terminal
        self._live = Live(console=self._console, auto_refresh=False) if on_terminal else None
        self._shown = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, lines: list[tuple[str, str]]) -> None:
        """Show these lines, in place of those before if there is a terminal. What repeats itself is said once."""
        abouts = ["", *(about for about, _ in lines)]
        lines = [("" if about == before else about, line) for (about, line), before in zip(lines, abouts, strict=False)]
        if self._live is None:
            if self._shown:
                say("")
            for about, line in lines:
                say(f"{about:<{ABOUT}} {line}")
            self._shown = True
            return
        table = RichTable(box=None, show_header=False)
        table.add_column(min_width=ABOUT, no_wrap=True)
        table.add_column(overflow="fold")
        for about, line in lines:
            table.add_row(about, visible(line), style="bold red" if about == "ALARM" else "")
        self._live.update(table, refresh=True)


class JsonLines:
    """Prints what is new as JSON lines."""

    def __init__(self, local: Local) -> None:
        self._local = local

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

    def __call__(self, news: list[object]) -> None:
        """Print each piece of news."""
        for item in news:
            if isinstance(item, Trained):
                rate = speed(self._local.progress, self._local.times, _RECENT)
                fields = {"round": item.round, "epoch": item.epoch, "tokens": item.tokens, "loss": item.loss}
                say_json({"event": "round", "tick": item.tick, **fields, "tokens_per_second": rate})
                if (warned := item.warning) is not None:
                    said = {"round": item.round, "clamped": item.clamped, "what": warned.text, "todo": warned.todo}
                    say_json({"event": "warning", "number": warned.number, **said})
            elif isinstance(item, Evaluated):
                say_json({"event": "evaluation", "tick": item.tick, "round": item.round, "val_loss": item.loss})
            elif isinstance(item, Void):
                say_json({"event": "void", "tick": item.tick, "number": item.number, "reason": item.reason})
            elif isinstance(item, Order):
                order = {"seq": item.seq, "action": item.action, "cites": item.cites, "reason": item.reason}
                say_json({"event": "order", **order, "hash": item.hash.hex()})
            elif isinstance(item, Changed):
                say_json({"event": "change", "tick": item.tick})
            elif isinstance(item, Answered):
                say_json({"event": "session", "tick": item.tick, "tokens": sum(a.tokens for a in item.answers)})
            elif isinstance(item, Mark):
                say_json({"event": item.kind, "tick": item.tick, "who": item.who})
            elif isinstance(item, Ended):
                say_json({"event": "ended", "process": item.process, "how": item.how, "again": item.again})
            elif isinstance(item, Joined):
                record = item.join.record
                say_json({"event": "joined", "role": record.role, "operator": record.operator})


class Table:
    """Keeps a table up to date on a terminal; prints a line now and then elsewhere."""

    def __init__(self, local: Local) -> None:
        self._local, self._start = local, machine.now_s()
        self._console = Console(markup=False, emoji=False, highlight=False)  # names in it are what others say
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, news: list[object]) -> None:
        """Show the run as it is now."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for item in news:
            if isinstance(item, Trained) and (warned := item.warning) is not None:
                note(f"warning: {warned}")
            if isinstance(item, Trained) and (item.round % EVERY == 0 or item.round == 1):
                rate = speed(self._local.progress, self._local.times, _RECENT)
                say(f"round {item.round:4d}  epoch {item.epoch:2d}  loss {item.loss:.4f}  {rate:,.0f} bytes/s")
            elif isinstance(item, Evaluated):
                say(f"round {item.round:4d}  validation {item.loss:.4f} nats a byte over {item.bytes:,} bytes")
            elif isinstance(item, Void):
                say(f"tick {item.tick} is void: E{item.number} {item.reason}")
            elif isinstance(item, Order):
                say(f"{item.action} {item.seq} takes effect: {item.reason}")
            elif isinstance(item, Changed):
                say(f"tick {item.tick}: every stage prepared its change")
            elif isinstance(item, Answered):
                say(f"tick {item.tick}: a session of {sum(a.tokens for a in item.answers):,} bytes was answered")
            elif isinstance(item, Mark):
                say(f"tick {item.tick}: {item}")
            elif isinstance(item, Ended):
                say(str(item))

    def _table(self) -> RichTable:
        table = RichTable(box=None, show_header=False)
        table.add_column(min_width=ABOUT, no_wrap=True)  # a new row moves no other
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, visible(value))
        return table

    def _rows(self) -> Iterator[tuple[str, str]]:
        local, progress = self._local, self._local.progress
        manifest = local.manifest
        took = timedelta(seconds=int(machine.now_s() - self._start))
        yield "run", f"'{manifest.name}' {manifest.run.hex()[:16]}, {took} so far"
        yield "now", self._now()
        yield "round", f"{progress.round} of {manifest.training.rounds}, epoch {progress.epoch}{self._left()}"
        if progress.rounds:
            rate = speed(progress, local.times, _RECENT)
            yield "training", f"{progress.rounds[-1].loss:.4f} nats a byte, {rate:,.0f} bytes/s"
        for found in progress.evaluations[-3:]:
            yield "validation", f"{found.loss:.4f} nats a byte after round {found.round}"
        name = {identity: join.record.operator for identity, join in progress.joins.items()}
        runs_on = {node: f"{node} ({backend})" for node, backend in local.backends.items()}
        for stage, group in enumerate(progress.members):
            yield f"stage {stage}", ", ".join(sorted(runs_on.get(name[who], name[who]) for who in group))
        for role in ("gate", "relay", *(() if progress.members else ("node",))):
            here = sorted(join.record.operator for join in progress.of(role))
            yield f"{role}s", ", ".join(here) or "none yet"
        for fate in list(local.fates)[-3:]:
            yield "", str(fate)
        if (warned := next((t.warning for t in reversed(progress.rounds) if t.clamped), None)) is not None:
            yield "warning", f"{warned}. {warned.todo}"
        for mark in progress.marks[-3:]:
            yield "event", f"tick {mark.tick}: {mark}"
        for void in progress.voids[-3:]:
            yield "void", f"tick {void.tick}: E{void.number} {void.reason}"

    def _now(self) -> str:
        """What the run does."""
        local, plan = self._local, self._local.progress.plan
        if (stop := local.progress.stopped) is not None:
            return f"stands still by {stop.action} {stop.seq}: {stop.reason}"
        if plan is not None and plan.session is not None and local.progress.is_open:
            waits = "" if local.progress.ended else ", which training waits for"
            return f"tick {plan.tick}: a session of at most {plan.session.seconds} s{waits}"
        if local.progress.ended:
            return f"ended; {local.progress.sessions} sessions answered" if local.progress.sessions else "ended"
        if local.waiting or plan is None:
            return f"waiting: {local.waiting}"
        doing = f"tick {plan.tick}: {plan.change or plan.kind}"
        return f"{doing}, no news for {local.quiet_s:.0f} s" if local.quiet_s > _QUIET_S else doing

    def _left(self) -> str:
        """About how long the rounds that are left will take."""
        local, progress = self._local, self._local.progress
        manifest = local.manifest
        rate = speed(progress, local.times, _RECENT)
        left = (manifest.training.rounds - progress.round) * manifest.tokens_per_round
        return f", about {timedelta(seconds=round(left / rate))} left" if rate and left else ""
