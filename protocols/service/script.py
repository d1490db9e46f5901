"""What befalls the demo's run: deaths, a newcomer, a halt and a resume, each when so much of the training is done."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

from interlock.vault import Identity

from ..effects import Event
from ..errors import Failed
from ..orders import Action, Order, Signed, sign
from . import orders
from .local import Local
from .rundir import write_whole

# Fractions of the rounds. The first 60 of 80 are compared with a plain run: most of it comes within them.
NEWCOMER, RELAY, GATE, HALT = 0.1, 0.3, 0.4, 0.55
HALTED_S = 3.0  # long enough to see that nothing moves
RESUME_S = 3600  # that a resume has to take effect in


class HandedOver(Event, frozen=True, kw_only=True):
    """A keyholder's signed order was put into a process's folder. signatures: how many keyholders have signed by then.

    order: hash, in hex. need: how many must.
    """

    order: str
    action: str
    keyholder: str
    process: str
    signatures: int
    need: int


class Script:
    """Does what is due whenever it is called, a few times a second.

    Args:
        told: hears each thing that is done, in words.
    """

    def __init__(self, local: Local, told: Callable[[str], None]) -> None:
        self._local, self._told = local, told
        self._steps = self._play()
        self._over = False

    def __call__(self) -> None:
        """Go on, as far as the run is."""
        if not self._over:
            self._over = next(self._steps, self) is self

    def verify_over(self) -> None:
        """Check that everything was done.

        Raises:
            Failed: E754.
        """
        if not self._over:
            raise Failed(
                754,
                "the run ended before everything had befallen it that the demo shows",
                todo="Give it more --rounds; or --calm, then nothing befalls it.",
            )

    def _play(self) -> Iterator[None]:
        local, children = self._local, self._local.children
        yield from self._until(NEWCOMER)
        newcomer = local.add_node()
        self._told(f"a fresh node asks to be let in: {newcomer}")
        while newcomer not in {join.record.operator for join in local.progress.of("node")}:
            yield
        self._kill(self._partner(), "its partner has the same state, and the newcomer gets it")
        while not local.progress.counted("join"):
            yield
        yield from self._until(RELAY)
        self._kill(children.running("relay-")[0], "the next plan does without it")
        yield from self._until(GATE)
        gate = children.running("gate-")[0]
        self._kill(gate, "the others are enough")
        yield from self._until(HALT)
        yield from self._halt(gate.removeprefix("gate-"))

    def _until(self, fraction: float) -> Iterator[None]:
        progress = self._local.progress
        while progress.round < fraction * self._local.manifest.training.rounds:
            yield

    def _kill(self, name: str, then: str) -> None:
        self._told(f"killing {name} with SIGKILL: {then}")
        self._local.children.send(name, signal.SIGKILL)

    def _partner(self) -> str:
        """A node at the stage in the middle that does not compute with JAX."""
        progress = self._local.progress
        names = [progress.name(who) for who in progress.members[self._local.manifest.stages // 2]]
        return min(name for name in names if self._local.backends[name] == "torch")

    def _halt(self, gone: str) -> Iterator[None]:
        """So many keyholders as it takes halt the run, each at its own gate; then so many resume it."""
        local, committee = self._local, self._local.manifest.committee
        names = [keyholder.name for keyholder in committee.keyholders]
        homes = {name: f"gate-{name}" for name in names}
        homes[gone] = local.children.running("node-")[0]  # any process takes orders
        there = sorted(names, key=lambda name: name == gone)
        halt = self._order("halt", "the demo shows that a run stops")
        yield from self._hand_over(halt, there[: committee.halt], homes)
        end = time.monotonic() + HALTED_S
        while time.monotonic() < end:
            yield
        resume = self._order("resume", "the demo shows that it goes on", cites=halt.seq)
        yield from self._hand_over(resume, there[: committee.resume], homes)
        while not local.progress.counted("resume"):
            yield

    def _order(self, action: Action, reason: str, *, cites: int | None = None) -> Order:
        manifest, now = self._local.manifest, int(orders.now())
        seq, prev = orders.known(self._local.run.path, manifest).next_place()
        return Order(
            run=manifest.run,
            seq=seq,
            action=action,
            cites=cites,
            epoch=None,
            prev=prev,
            not_before=now,
            expires=now + RESUME_S if action == "resume" else None,
            reason=reason,
        )

    def _hand_over(self, order: Order, names: list[str], homes: dict[str, str]) -> Iterator[None]:
        """Each signs by itself, and puts its own signature where it is; the processes collect them."""
        run, committee = self._local.run, self._local.manifest.committee
        for number, name in enumerate(names, 1):
            signed: Signed = sign(order, Identity.load(run.key(f"keyholder-{name}")))
            path = run.folder(homes[name]) / "orders" / orders.file_name(signed)
            self._local.children.note(
                HandedOver(
                    order=order.hash.hex(),
                    action=order.action,
                    keyholder=name,
                    process=homes[name],
                    signatures=number,
                    need=order.need(committee),
                )
            )
            self._told(f"keyholder {name} signs to {order.action}, {number} of {order.need(committee)}")
            write_whole(path, signed.note(committee).encode())
            yield
