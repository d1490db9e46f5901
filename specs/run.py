"""A whole run with its real roles, as small as one can be: what the specs of a run's protocols have in common.

Coordinator, gates, relays and nodes are the program's own; only the nodes' workers name what they would compute
(`symbolic`). A run starts, measures, trains, turns and ends by itself; the outside may only hurry somebody's clock.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from interlock.protocols import corpus, messages
from interlock.protocols.canonical import decode
from interlock.protocols.coordinator import Coordinator, RunEnded
from interlock.protocols.effects import Effects
from interlock.protocols.errors import Misused
from interlock.protocols.gate import Gate
from interlock.protocols.journal import Changed, Row
from interlock.protocols.kept import ROW
from interlock.protocols.manifest import Committee, Keyholder, Manifest, Model, Training
from interlock.protocols.members import Invitation, make_invitation
from interlock.protocols.node import Leaves, Node, NodeOpened
from interlock.protocols.relay import Relay
from interlock.vault import Identity

from .history import Seen, Stored
from .spec import Spec, action
from .symbolic import SymbolicEngine

TEXT = corpus.Corpus(b"train " * 40, b"validation")
COORDINATOR = "coordinator"
STUMBLES_MAX = 3  # fewer than void a round for good


class RunSpec(Spec):
    """Base of the specs of a run.

    Attributes:
        stages, replicas, relays, keyholders, release, lying, width, context: see `protocols.manifest`.
        spares: nodes beyond those that the run needs.
        askers: how many ask the model; what they do is the spec's (`asker`).
        rounds, epoch_rounds, microbatches: of the run; it turns between epochs.
        coordinator_role, gate_role, relay_role, node_role, engine_role: who plays.
    """

    coordinator_role: ClassVar[type[Coordinator]] = Coordinator
    gate_role: ClassVar[type[Gate]] = Gate
    relay_role: ClassVar[type[Relay]] = Relay
    node_role: ClassVar[type[Node]] = Node
    engine_role: ClassVar[type[SymbolicEngine]] = SymbolicEngine

    stages: ClassVar[int] = 2
    replicas: ClassVar[int] = 2
    spares: ClassVar[int] = 0
    relays: ClassVar[int] = 1
    keyholders: ClassVar[int] = 3
    release: ClassVar[int] = 2
    lying: ClassVar[int] = 0
    rounds: ClassVar[int] = 2
    epoch_rounds: ClassVar[int] = 1
    microbatches: ClassVar[int] = 2
    width: ClassVar[int] = 4
    context: ClassVar[int] = 4
    askers: ClassVar[int] = 0

    cost = 20
    small_most = 20
    seconds = 0.8  # a run without faults takes no longer
    crashing: ClassVar[Collection[str] | None] = (COORDINATOR, "g0", "g1", "g2", "r0")

    messages = messages.EVERY

    def cast(self) -> Mapping[bytes, Any]:
        """Everyone, by identity key."""
        self.engines = {name: self.engine_role(self.manifest) for name in self.named("n")}
        self.stumbled = 0
        everyone = (key(COORDINATOR), *(name for letter in "grna" for name in self.named(letter)))
        return {name: self.role(name) for name in everyone}

    def restarted(self, name: Any) -> Any:
        """Nothing but what it stored is left of whoever starts again."""
        if name in self.engines:
            self.engines[name] = self.engine_role(self.manifest)
        return self.role(name)

    def role(self, name: bytes) -> Any:
        """A fresh role."""
        label, made = self.label(name), self.manifest
        who = identity(label)
        if label == COORDINATOR:
            return self.coordinator_role(who, made, index=_index(), chunk=_chunk)
        if label.startswith("g"):
            return self.gate_role(who, made, operator=label)
        if label.startswith("r"):
            return self.relay_role(
                who, made, operator=label, address=f"sim://{label}", invitation=_invitation(made, label)
            )
        if label.startswith("a"):
            return self.asker(who, made, label, _invitation(made, label))
        return self.node_role(who, made, operator=label, invitation=_invitation(made, label))

    def asker(self, who: Identity, made: Manifest, label: str, invitation: Invitation) -> Any:
        """The role of somebody who asks the model.

        Raises:
            Misused: E809, the spec has askers and does not say what they do.
        """
        raise Misused(809, f"spec {self.name} has askers and no role for them", todo="Define asker(self, ...).")

    def named(self, letter: str) -> tuple[bytes, ...]:
        """Keys of the gates ("g"), relays ("r"), nodes ("n") or askers ("a")."""
        nodes = self.stages * self.replicas + self.spares
        size = {"g": self.keyholders, "r": self.relays, "n": nodes, "a": self.askers}[letter]
        return tuple(key(f"{letter}{i}") for i in range(size))

    @property
    def manifest(self) -> Manifest:
        """The run's manifest."""
        return _manifest(
            self.stages,
            self.replicas,
            self.relays,
            self.keyholders,
            self.release,
            self.lying,
            self.rounds,
            self.epoch_rounds,
            self.microbatches,
            self.width,
            self.context,
        )

    def label(self, name: Any) -> str:
        """g0, r0, n0, ... or coordinator."""
        return _labels().get(name) or str(name)

    def identity(self, name: Any) -> Identity:
        """The keys that it signs with."""
        return identity(self.label(name))

    def compute(self, name: Any, job: Any) -> Any:
        """A node's work."""
        return self.engines[name](job)

    @action
    def hurry(self, role: Any) -> Effects:
        "Its clock runs fast: it looks whether something is missing."
        effects: Effects = role.on_timer("hello" if isinstance(role, Gate) else "look")
        return effects

    @action(by=Node)
    def stumble(self, role: Node) -> Effects:
        "A node's next job fails, so that the attempt is void; three in a run at most."
        if self.stumbled == STUMBLES_MAX:
            raise Misused(801, "enough stumbling")
        self.stumbled += 1
        self.engines[role.identity].stumbles = True
        return []

    def rows(self, seen: Seen) -> list[Row]:
        """The coordinator's journal so far."""
        return [self.row(stored) for stored in seen.stored() if self.is_row(stored)]

    def is_row(self, stored: Stored) -> bool:
        """Whether the coordinator wrote a row of its journal: gates keep copies, and an empty value takes one back."""
        return stored.by == COORDINATOR and stored.key.startswith(ROW) and bool(stored.value)

    def row(self, stored: Stored) -> Row:
        """A row as it was stored."""
        return _row(stored.value)

    def ended(self, seen: Seen) -> bool:
        """Whether all rounds are taken."""
        return bool(seen(RunEnded))

    def bearable(self, seen: Seen) -> bool:
        """Whether every stage kept a replica that neither crashed nor left, and of the others nobody died for good.

        Before the run began, as many nodes may have gone for good as it has spares.
        """
        held: dict[str, int] = {}
        lost: dict[int, set[str]] = defaultdict(set)
        early: set[str] = set()
        changed = {row.body.tick for row in self.rows(seen) if isinstance(row.body, Changed)}
        holds = [event for event in seen(NodeOpened) if event.kind != "change" or event.tick in changed]
        opened = sorted(holds, key=lambda event: event.at)
        gone = [(step.who, step.at, step.mark == "dead") for step in seen.steps("crash")]
        gone += [(event.by, event.at, True) for event in seen(Leaves)]
        for who, at, for_good in gone:
            if not who.startswith("n"):
                if for_good:
                    return False
                continue
            held |= {event.by: event.stage for event in opened if event.by == who and event.at <= at}
            if who in held:
                lost[held[who]].add(who)
            elif for_good:
                early.add(who)
        return len(early) <= self.spares and all(len(who) < self.replicas for who in lost.values())


@functools.cache
def identity(label: str) -> Identity:
    """The keys of a participant."""
    return Spec().identity(label)


@functools.cache
def key(label: str) -> bytes:
    """A participant's identity key: its name in the cast."""
    return identity(label).public


@functools.cache
def _labels() -> dict[bytes, str]:
    numbered = [f"{letter}{i}" for letter in "grna" for i in range(9)]
    return {key(label): label for label in (COORDINATOR, *numbered)}


@functools.cache
def _row(value: bytes) -> Row:
    row: Row = decode(value, Row, whose="row")
    return row


@functools.cache
def _index() -> corpus.Index:
    return corpus.index(TEXT)


def _chunk(number: int) -> bytes:
    return corpus.chunk(TEXT, number)


@functools.cache
def _invitation(manifest: Manifest, label: str) -> Invitation:
    role: Any = {"r": "relay", "n": "node", "a": "asker"}[label[0]]
    nonce = label.encode().rjust(16, b"-")
    return make_invitation(identity("g0"), run=manifest.run, role=role, label=label, nonce=nonce)


@functools.cache
def _manifest(
    stages: int,
    replicas: int,
    relays: int,
    keyholders: int,
    release: int,
    lying: int,
    rounds: int,
    epoch_rounds: int,
    microbatches: int,
    width: int,
    context: int,
) -> Manifest:
    """Not verified: a spec may ask what happens under thresholds that a real run refuses."""
    seats = tuple(Keyholder(name=f"g{i}", key=key(f"g{i}")) for i in range(keyholders))
    return Manifest(
        version=1,
        name="spec",
        nonce=bytes(16),
        coordinator=key(COORDINATOR),
        committee=Committee(keyholders=seats, release=release, halt=release, resume=keyholders, lying=lying),
        model=Model(width=width, heads=1, layers_per_stage=1, hidden=4, mlp="relu2", context=context),
        stages=stages,
        replicas=replicas,
        relays=relays,
        data=corpus.describe(_index()),
        training=Training(
            rounds=rounds,
            epoch_rounds=epoch_rounds,
            microbatches=microbatches,
            rows=1,
            rate=0.02,
            warmup=0,
            decay=0,
            evaluate_every=0,
        ),
        admission="invited",
        release="automatic",
        frame_width=24,
        frame_fraction=12,
        gradient_exponent=0,
    )
