"""Drives one role: inputs from transport, timers and worker go in, effects come out and are carried out in order.

Each input is one step: the role is called and its effects are carried out to the end before anything else
happens, so a role never sees half of its own effects. Everything but `Work` is done at once; a job goes to the
worker, and messages and timers are handled while it computes. What a peer does wrong (`Refused`), and what cannot
be sent (`NotSent`), is counted by number, announced as a `Refusal` at a bounded rate, and never ends the process.
A `Stop`, and any error that is not a peer's fault, does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, Protocol, TypeAlias

from .. import effects as fx
from ..effects import UP
from ..errors import Failed, InterlockError, Misused, Refused
from ..versions import OURS, Versions
from ..wire import DOOR_LIMITS, Limits, Replay, Signer, pack, unpack
from .transport import Arrival, NotSent, Transport

EFFECTS_MAX = 10_000  # of one input
TIMERS_MAX = 10_000
JOBS_MAX = 10_000  # waiting for the worker
MESSAGES_A_TURN = 32  # before timers and other callbacks have their turn
REFUSALS_A_WINDOW, WINDOW_S = 5, 10.0  # announced of each number; all are counted
DOOR_SENDERS = 256  # unknown peers whose last sequence number is remembered


class Refusal(fx.Event, frozen=True, tag=True, kw_only=True):
    """An input was dropped, or a message could not be sent.

    what: with what was expected and what came. todo: what a reader can do. peer: whose, if known. times: how many of
    this number since the last one announced, this one included.
    """

    number: int
    what: str
    todo: str
    peer: bytes | None
    times: int = 1


class Store(Protocol):
    """Durable values of one process."""

    def load(self) -> Mapping[str, bytes]:
        """All values, by key."""

    def put(self, values: Mapping[str, bytes]) -> None:
        """Replace these values, all or none; an empty one is dropped. They are durable when this returns."""


class MemoryStore:
    """A store that outlives its role and nothing else."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def load(self) -> Mapping[str, bytes]:
        """All values, by key."""
        return dict(self.values)

    def put(self, values: Mapping[str, bytes]) -> None:
        """Replace these values."""
        self.values = {key: value for key, value in (self.values | dict(values)).items() if value}


Done: TypeAlias = Callable[[Any, Exception | None], None]  # result, or what it raised


class Worker(Protocol):
    """Computes the jobs of one role, in order."""

    def submit(self, job: Any, done: Done) -> None:
        """Compute `job` after all earlier ones; `done` is called on the loop."""

    async def close(self) -> None:
        """Drop the jobs that have not begun."""


class ThreadWorker:
    """One thread that computes jobs while the loop goes on."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")

    def submit(self, job: Any, done: Done) -> None:
        """Compute `job` after all earlier ones."""

        def finish(future: asyncio.Future[Any]) -> None:
            if not future.cancelled():
                error = future.exception()
                assert error is None or isinstance(error, Exception)
                done(None if error else future.result(), error)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._pool, self._compute, job).add_done_callback(finish)

    async def close(self) -> None:
        """Drop the jobs that have not begun; the one that has is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class SimulatedWorker:
    """Computes a job at once and gives its result after `seconds(job)` of the loop's time."""

    def __init__(self, compute: Callable[[Any], Any], seconds: Callable[[Any], float] = lambda job: 0.0) -> None:
        self._compute, self._seconds = compute, seconds
        self._free_at = 0.0
        self._closed = False

    def submit(self, job: Any, done: Done) -> None:
        """Compute `job`; its time begins when the jobs before it have had theirs."""
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + self._seconds(job)
        try:
            result, error = self._compute(job), None
        except Exception as caught:
            result, error = None, caught
        loop.call_at(self._free_at, self._finish, done, result, error)

    def _finish(self, done: Done, result: Any, error: Exception | None) -> None:
        if not self._closed:
            done(result, error)

    async def close(self) -> None:
        """Give no more results."""
        self._closed = True


class Runner:
    """Runs one role until it stops.

    Args:
        run: the run's 32-byte id. signer: this process's identity.
        kinds: union of the message classes that known peers may send; door_kinds, of those that unknown ones may
            send (None: no message of an unknown peer is read).
        limits, door_limits: largest messages of either.
        draw: `draw(n)` gives n random bytes. clock: seconds since 1970; sequence numbers begin there.
        observe: hears every event the role announces, and `Refusal`s.
        versions: of the wire, that this process and the run have in common (`protocols.versions.common`).

    Attributes:
        refused: how many inputs were dropped, by error number.
    """

    def __init__(
        self,
        role: fx.Role,
        transport: Transport,
        *,
        run: bytes,
        signer: Signer,
        kinds: Any,
        door_kinds: Any = None,
        limits: Limits,
        door_limits: Limits = DOOR_LIMITS,
        store: Store,
        worker: Worker,
        draw: Callable[[int], bytes],
        observe: Callable[[fx.Event], None],
        clock: Callable[[], float],
        versions: Versions = OURS,
    ) -> None:
        self.refused: Counter[int] = Counter()
        self._role, self._transport, self._store, self._worker = role, transport, store, worker
        self._run, self._signer = run, signer
        self._kinds, self._door_kinds = kinds, door_kinds
        self._limits, self._door_limits = limits, door_limits
        self._draw, self._observe, self._versions = draw, observe, versions
        self._sequence, self._clock = int(clock() * 1_000_000), clock
        self._replay, self._door_replay = Replay(), Replay(DOOR_SENDERS)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._jobs = 0
        self._windows: dict[int, tuple[float, int, int]] = {}  # number: began, announced, held back
        self._ended: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    async def run(self, *, flush_s: float = 2.0) -> None:
        """Start the transport, restore the role, and go on until it stops.

        At the end what is queued is sent, for at most `flush_s` seconds.

        Raises:
            Exception: the `error` of `Stop`; `Failed` (E790) for any error that is no peer's fault.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        listener: asyncio.Task[None] | None = None
        try:
            await self._transport.start()
            self._transport.lost = lambda peer, error: self._refuse(error, peer)
            self._transport.up = lambda peer: self._step(lambda: self._role.on_timer(f"{UP}{peer.hex()}"))
            self._step(lambda: self._role.restore(self._store.load()))
            listener = loop.create_task(self._listen(), name="listener")
            await self._ended
        finally:
            if not self._ended.done():
                self._ended.cancel()  # cancelled from outside: late inputs find it done
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            if listener is not None:
                listener.cancel()
                await asyncio.wait([listener])
            await self._worker.close()
            await self._transport.close(flush_s)
        if self._error is not None:
            raise self._error

    def interrupt(self, name: str) -> None:
        """Call the role's `on_timer(name)` now: how a signal or a command reaches it."""
        self.perform(lambda: self._role.on_timer(name))

    def perform(self, command: Callable[[], fx.Effects]) -> None:
        """Call a method of the role now and carry out its effects.

        Raises:
            Misused: the role says so; nothing was changed.
        """
        misuse: list[Misused] = []

        def called() -> fx.Effects:
            try:
                return command()
            except Misused as error:
                misuse.append(error)
                return []

        self._step(called)
        if misuse:
            raise misuse[0]

    async def _listen(self) -> None:
        try:
            while True:
                for _ in range(MESSAGES_A_TURN):
                    self._hear(await self._transport.receive())
                await asyncio.sleep(0)
        except Exception as error:
            self._end(error)

    def _hear(self, arrival: Arrival) -> None:
        known = arrival.peer is not None

        def read() -> fx.Effects:
            if not known and self._door_kinds is None:
                raise Refused(208, "message of an unknown peer")
            received = unpack(
                arrival.parts,
                kinds=self._kinds if known else self._door_kinds,
                run=self._run,
                me=self._signer.public,
                peer=arrival.peer,
                limits=self._limits if known else self._door_limits,
                versions=self._versions,
            )
            (self._replay if known else self._door_replay).check(received.sender, received.sequence)
            if not known:
                self._transport.greet(received.sender, arrival.curve)
            return self._role.on_message(received.sender, received.message, received.blobs)

        self._step(read, arrival.peer)

    def _step(self, call: Callable[[], fx.Effects], peer: bytes | None = None) -> None:
        """One input: call the role, carry out its effects."""
        if self._ended is None or self._ended.done():
            return
        try:
            if isinstance(self._role, fx.Timed):
                self._role.at(self._clock())
            effects = call()
        except Refused as error:
            self._refuse(error, peer)
            return
        except Exception as error:
            self._end(error)
            return
        try:
            if len(effects) > EFFECTS_MAX:
                raise Failed(791, "too many effects of one input", expected=EFFECTS_MAX, actual=len(effects))
            for stores, group in groupby(effects, lambda effect: isinstance(effect, fx.Store)):
                if stores:  # one transaction: the disk is waited for once
                    self._put(group)
                    continue
                for effect in group:
                    if isinstance(effect, fx.Stop):
                        self._stop(effect.error)
                        return
                    self._carry_out(effect)
        except Exception as error:
            self._end(error)

    def _put(self, stores: Iterable[fx.Effect]) -> None:
        """Consecutive `Store` effects in one transaction, as long as no key comes again."""
        batch: dict[str, bytes] = {}
        for effect in stores:
            assert isinstance(effect, fx.Store)
            if effect.key in batch:
                self._store.put(batch)
                batch = {}
            batch[effect.key] = effect.value
        self._store.put(batch)

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send(to, message, blobs):
                self._sequence += 1
                parts = pack(
                    message,
                    blobs,
                    run=self._run,
                    sender=self._signer,
                    to=to,
                    sequence=self._sequence,
                    version=self._versions.newest,
                )
                self._at_peer(to, lambda: self._transport.send(to, parts))
            case fx.After(seconds, name):
                self._set_timer(seconds, name)
            case fx.Announce(event):
                self._observe(event)
            case fx.Work(job):
                self._jobs += 1
                if self._jobs > JOBS_MAX:
                    raise Failed(791, "too many jobs wait for the worker", expected=JOBS_MAX)
                self._worker.submit(job, lambda result, error: self._finish(job, result, error))
            case fx.Draw(name, size):
                data = self._draw(size)
                # An input of its own, after this one: a role is never called from inside its own effects.
                asyncio.get_running_loop().call_soon(self._step, lambda: self._role.on_drawn(name, data))
            case fx.Admit(identity, curve):
                self._at_peer(identity, lambda: self._transport.admit(identity, curve))
            case fx.Connect(identity, curve, address):
                self._at_peer(identity, lambda: self._transport.connect(identity, curve, address))
            case _:
                raise TypeError(f"not an effect: {effect!r}")

    def _at_peer(self, peer: bytes, act: Callable[[], None]) -> None:
        try:
            act()
        except (NotSent, Refused) as error:
            self._refuse(error, peer)

    def _set_timer(self, seconds: float, name: str) -> None:
        if (old := self._timers.pop(name, None)) is not None:
            old.cancel()
        if len(self._timers) >= TIMERS_MAX:
            raise Failed(791, "too many timers", expected=TIMERS_MAX)

        def ring() -> None:
            self._timers.pop(name, None)
            self._step(lambda: self._role.on_timer(name))

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, ring)

    def _finish(self, job: Any, result: Any, error: Exception | None) -> None:
        self._jobs -= 1
        if error is not None and not isinstance(error, InterlockError):
            self._end(error)
        else:
            self._step(lambda: self._role.on_done(job, error if error is not None else result))

    def _refuse(self, error: InterlockError, peer: bytes | None) -> None:
        """Count what was refused; announce a few of each number in each window of time."""
        self.refused[error.number] += 1
        now = asyncio.get_running_loop().time()
        began, announced, held = self._windows.get(error.number, (now, 0, 0))
        if now - began >= WINDOW_S:
            began, announced = now, 0
        if announced < REFUSALS_A_WINDOW:
            self._windows[error.number] = (began, announced + 1, 0)
            event = Refusal(number=error.number, what=error.text, todo=error.todo, peer=peer, times=held + 1)
            try:
                self._observe(event)
            except Exception as failure:
                self._end(failure)
        else:
            self._windows[error.number] = (began, announced, held + 1)

    def _end(self, error: Exception) -> None:
        """Leave `run` because of an error that no peer can cause."""
        if isinstance(error, InterlockError):
            self._stop(error)
            return
        failure = Failed(
            790,
            f"internal error: {type(error).__name__}: {error}",
            todo="This is a fault of the program: report it with its log.",
        )
        if isinstance(error, MemoryError):
            failure = Failed(724, "there is not enough memory", todo="Give this process more, or the model less.")
        failure.__cause__ = error
        self._stop(failure)

    def _stop(self, error: Exception | None) -> None:
        """Leave `run`. The first error stays."""
        if self._ended is not None and not self._ended.done():
            self._error = error
            self._ended.set_result(None)
