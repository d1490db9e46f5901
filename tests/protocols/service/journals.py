"""Journals written by hand: what is to be told of a run, without the run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.runs import identity

from interlock.protocols.canonical import encode
from interlock.protocols.journal import (
    GENESIS,
    Body,
    Changed,
    Closed,
    Committed,
    Joined,
    Measured,
    Opened,
    Ordered,
    Planned,
    Row,
    Voided,
    make_row,
)
from interlock.protocols.manifest import Manifest
from interlock.protocols.members import Join, Role, make_invitation, make_record
from interlock.protocols.orders import Action, Order, Signed, sign
from interlock.protocols.release import Base, Plan, make_release
from interlock.protocols.round import Commitment, Loss, Measurement
from interlock.protocols.service.rundir import RunDir, save_manifest
from interlock.protocols.service.store import SQLiteStore

Names = Sequence[Sequence[str]]  # of every stage's members


class Journal:
    """Rows of a run, in their order. Each row but the last of a tick is written a second after the one before it."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.rows: list[Row] = []
        self.times: list[float] = []
        self.relays = tuple(f"relay{n}" for n in range(manifest.relays))
        self.members: Names = ()
        self.orders: list[Order] = []
        self.now = 1000.0
        self._tick = self._round = self._epoch = 0

    def write(self, body: Body) -> None:
        previous = self.rows[-1].digest if self.rows else GENESIS
        self.rows.append(make_row(identity("coordinator"), self.manifest.run, len(self.rows), previous, body))
        self.now += 1.0
        self.times.append(self.now)

    def join(self, role: Role, *names: str, operator: str = "", label: str = "", inviter: str = "ada") -> None:
        for name in names:
            address = f"tcp://127.0.0.1:{7000 + len(self.rows)}" if role == "relay" else ""
            record = make_record(identity(name), role, operator or name, address)
            invitation = None
            if role != "gate":
                run = self.manifest.run
                nonce = len(self.rows).to_bytes(16, "big")
                invitation = make_invitation(identity(inviter), run=run, role=role, label=label or name, nonce=nonce)
            self.write(Joined(join=Join(record=record, invitation=invitation)))

    def everyone(self) -> None:
        """All gates, relays and first members join."""
        self.join("gate", *(k.name for k in self.manifest.committee.keyholders))
        self.join("relay", *self.relays)
        self.join("node", *(name for stage in self.places() for name in stage))

    def places(self) -> Names:
        replicas = self.manifest.replicas
        return [[f"node{s * replicas + r}" for r in range(replicas)] for s in range(self.manifest.stages)]

    def plan(self, kind: str, change: str = "", **fields: Any) -> Plan:
        self._tick += 1
        manifest = self.manifest
        said: dict[str, Any] = dict(
            run=manifest.run,
            tick=self._tick,
            head=self.rows[-1].digest,
            base=None if change == "start" else Base(row=bytes(32), made=(1,) * manifest.stages),
            kind=kind,
            change=change,
            round=self._round,
            epoch=self._epoch,
            epoch_tick=1,
            attempt=0,
            relays=keys(self.relays),
            candidates=(),
            members=tuple(keys(stage) for stage in self.members),
            exponents=(0,) * (manifest.stages - 1),
            lifts=(0,) * manifest.stages,
            work=() if change else ((0,) * manifest.stages,),
        )
        plan = Plan(**(said | fields))
        self.write(Planned(plan=plan))
        return plan

    def open(self, plan: Plan) -> None:
        gates = [identity(k.name) for k in self.manifest.committee.keyholders][: self.manifest.committee.release]
        releases = tuple(make_release(gate, plan, bytes(32)) for gate in gates)
        self.write(Opened(tick=plan.tick, plan=plan.digest, releases=releases))

    def change(self, change: str, into: Names, **fields: Any) -> None:
        """A change of that kind, which ends with these members; who was one and is not gone stays."""
        if change == "members":
            pairs = zip(self.members, into, strict=True)
            stays = [[name for name in old if name in new] for old, new in pairs]
            fields = {"members": tuple(keys(stage) for stage in stays)} | fields
        plan = self.plan("change", change, **fields)
        self.open(plan)
        self.members = into
        self.write(Changed(tick=plan.tick, members=tuple(keys(stage) for stage in into), prepared=()))

    def start(self) -> None:
        """Everyone joins, and the first members begin."""
        self.everyone()
        self.change("start", self.places())

    def train(self, *, void: int = 0, reason: str = "a test") -> None:
        """One round of 100 bytes, whose loss falls; or one that is voided with a number."""
        plan = self.plan("train")
        self.open(plan)
        if void:
            self.write(Voided(tick=plan.tick, number=void, reason=reason))
            return
        loss = Loss(microbatch=0, nats=100 * (2 + 3 * math.exp(-self._round / 8)), tokens=100)
        member = identity(self.members[-1][0]).public
        commitment = Commitment(
            tick=plan.tick, member=member, sum=bytes(32), headers=bytes(32), clamped=0, peaks=(), losses=(loss,),
            seconds=0.0, signature=bytes(64),
        )  # fmt: skip
        self.write(Closed(tick=plan.tick, opening=bytes(32), commitments=(commitment,)))
        self._round += 1
        self.write(Committed(tick=plan.tick, round=self._round, reports=()))

    def order(self, action: Action, *, cites: int | None = None) -> None:
        """An order of all keyholders, whose number is one more than the last one's."""
        before = self.orders[-1] if self.orders else None
        expires = None if action == "halt" else 2**31
        made = Order(
            run=self.manifest.run, seq=len(self.orders) + 1, action=action, cites=cites, not_before=1000,
            prev=None if before is None else before.hash, expires=expires, reason="we must talk",
        )  # fmt: skip
        self.orders.append(made)
        committee = self.manifest.committee
        signatures = {k.key: sign(made, identity(k.name)).signatures[k.key] for k in committee.keyholders}
        self.write(Ordered(text=Signed(made, signatures).note(committee)))

    def evaluate(self, loss: float) -> None:
        plan = self.plan("evaluate")
        self.open(plan)
        losses = (Loss(microbatch=0, nats=50 * loss, tokens=50),)
        member = identity(self.members[-1][0]).public
        measurement = Measurement(tick=plan.tick, member=member, losses=losses, signature=bytes(64))
        self.write(Measured(tick=plan.tick, measurements=(measurement,)))

    def save(self, path: Path) -> RunDir:
        """A run's directory with this journal, and what its coordinator announced of it."""
        run = RunDir(path)
        folder = run.folder("coordinator")
        folder.mkdir(parents=True)
        save_manifest(path, self.manifest)
        store = SQLiteStore(run.journal)
        with (folder / "events.jsonl").open("w") as events:
            for row, time in zip(self.rows, self.times, strict=True):
                store.put({f"row {row.number:08d}": encode(row)})
                name = type(row.body).__name__
                events.write(json.dumps({"time": time, "event": "Wrote", "number": row.number, "row": name}) + "\n")
        store.close()
        return run


def announce(folder: Path, event: str, time: float = 1000.0, **fields: Any) -> None:
    """Let a process have announced something."""
    folder.mkdir(exist_ok=True)
    with (folder / "events.jsonl").open("a") as events:
        events.write(json.dumps({"time": time, "event": event, **fields}) + "\n")


def keys(names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(identity(name).public for name in names)
