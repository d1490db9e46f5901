"""How `join` shows what its node does: live on a terminal, in lines elsewhere, or as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..effects import Event
from ..manifest import Manifest
from ..service import machine
from ..service.joining import Settled
from ..service.standing import Standing
from ..service.url import JoinURL
from .app import note, say, say_json, visible

if TYPE_CHECKING:
    from .serve import Computing, Limits

EVERY = 10  # counted rounds between lines where there is no terminal
LEAVING = "leaving: hands over after this round; Ctrl-C again stops at once"


class Status:
    """Shows how a node fares: live on a terminal, in lines elsewhere, or as JSON lines."""

    def __init__(self, *, json: bool) -> None:
        self._json, self._standing = json, Standing()
        self._uploaded: Callable[[], int] = lambda: 0
        self._start = machine.now_s()
        self._said: object = None
        console = Console(markup=False, emoji=False, highlight=False)  # names in it are what others say
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not json else None

    def begin(self, url: JoinURL, settled: Settled, computing: Computing, limits: Limits) -> None:
        """Say, on one screen, what is going to happen."""
        if self._json:
            who = {"operator": settled.operator, "public": settled.identity.public.hex()}
            said = {"run": url.run.hex(), "folder": str(settled.folder), "made_key": settled.made, **who}
            say_json({"event": "joins", **said})
            return
        threads = "1 thread" if limits.threads == 1 else f"{limits.threads} threads"
        made = "made now" if settled.made else "made earlier"
        say(f"joining run {url.run.hex()[:16]} as node '{settled.operator}'")
        say(f"  coordinator  {url.host}:{url.port}; it must prove the key in the URL")
        say(f"  key          {settled.key}, {made}, readable by you alone; its public part is")
        say(f"               {settled.identity.public.hex()}")
        say(f"  folder       {settled.folder}: log, events and the run's manifest; nothing of the model")
        say(f"  computes     with {computing.backend} on {computing.device}, {threads}")
        say("  holds        one stage's weights, in memory only; the stage is drawn, not chosen")
        say("  network      connections out, to the coordinator and the relays; no port has to be open")
        say("  ends         at Ctrl-C: the first hands over and leaves, the second stops at once")
        if self._live is not None:
            self._live.start()

    def joined(self, manifest: Manifest, uploaded: Callable[[], int]) -> None:
        """The coordinator let it in."""
        self._standing.manifest, self._uploaded = manifest, uploaded
        self.look()

    def seen(self, event: Event) -> None:
        """Take note of an event."""
        self._standing.seen(event, machine.now_s())

    def leaving(self) -> None:
        """The first signal came."""
        self._standing.is_leaving = True
        if not self._json:
            note(LEAVING)
        self.look()

    def look(self) -> None:
        """Show what is new."""
        standing = self._standing
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        now = (standing.state, standing.trouble, standing.unreached, standing.rounds // (1 if self._json else EVERY))
        if now == self._said:
            return
        self._said = now
        if self._json:
            say_json(
                {
                    "event": "stands",
                    "state": standing.state,
                    "stage": standing.stage,
                    "tick": standing.tick,
                    "rounds": standing.rounds,
                    "tokens": standing.tokens,
                    "tokens_per_second": standing.tokens_per_second,
                    "uploaded_bytes": self._uploaded(),
                    "trouble": standing.trouble,
                    "unreached": standing.unreached,
                }
            )
            return
        say(f"{standing.state}: {self._work()}" if standing.stage is not None else standing.state)
        if standing.trouble:
            say(f"could not finish {standing.trouble}")
        if standing.unreached:
            say(f"no answer {_of(standing.unreached)}")

    def end(self) -> None:
        """Leave the screen as it is."""
        if self._live is not None:
            self._live.stop()
        elif not self._json and self._standing.stage is not None:
            say(f"ended: {self._work()}")

    def _work(self) -> str:
        standing = self._standing
        counted = "1 round counted" if standing.rounds == 1 else f"{standing.rounds} rounds counted"
        return (
            f"{counted}, {standing.tokens_per_second:,.0f} bytes of text a second, {_size(self._uploaded())} uploaded"
        )

    def _table(self) -> Table:
        table = Table(box=None, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in self._rows():
            table.add_row(name, visible(value))
        return table

    def _rows(self) -> Iterator[tuple[str, str]]:
        standing = self._standing
        yield "now", standing.state
        if standing.manifest is not None:
            took = timedelta(seconds=int(machine.now_s() - self._start))
            yield "run", f"'{standing.manifest.name}' {standing.manifest.run.hex()[:16]}, {took} so far"
        if standing.stage is not None:
            yield "tick", f"{standing.tick}, {standing.kind}"
            yield "counted", f"{standing.rounds} rounds, {standing.tokens:,} bytes of text"
            yield "speed", f"{standing.tokens_per_second:,.0f} bytes of text a second"
        yield "uploaded", _size(self._uploaded())
        if standing.trouble:
            yield "trouble", standing.trouble
        if standing.unreached:
            yield "no answer", _of(standing.unreached)
        if standing.is_leaving:
            yield "", LEAVING


def _of(relays: str) -> str:
    return f"of relay {relays}: is it running, and does a firewall let this machine out?"


def _size(count: int) -> str:
    """Bytes for people.

    >>> _size(999), _size(2_340_000)
    ('0.0 MB', '2.3 MB')
    """
    return f"{count / 1e6:,.1f} MB"
