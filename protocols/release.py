"""Ticks and who opens them: plans, releases, openings, and the key of a tick.

A *plan* says what moves in one tick. A keyholder's gate answers it with a *release*. An *opening* is the plan and
exactly k_e releases in roster order: permission and fresh randomness, public once it is out. With `2 k_e > n + f`
every opening contains an honest gate that checked the one before it, so no tick has two plans opened.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from interlock.vault import Identity, VaultError, verify_signature

from .canonical import Count, Hash, Message, Plain, PublicKey, Signature, digest, encode
from .errors import Refused
from .manifest import Manifest

Kind = Literal["measure", "train", "evaluate", "change", "session"]
Exponent = Annotated[int, msgspec.Meta(ge=-200, le=200)]
Replica = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Base(Plain, frozen=True, array_like=True, kw_only=True):
    """What a tick starts from: the last start, commit or change row, and the tick that made each stage's state."""

    row: Hash
    made: tuple[Count, ...]


class Session(Plain, frozen=True, array_like=True, kw_only=True):
    """What a member asks of the model in one tick. Sizes are public, the text is not.

    number: the asker's own count. shapes: (rows, positions) of every micro-batch. length: bytes to generate after the
    one text of shape (1, positions); 0: score the texts. seconds: what it may take.
    """

    asker: PublicKey
    number: Count
    shapes: Annotated[tuple[tuple[Count, Count], ...], msgspec.Meta(min_length=1, max_length=64)]
    length: Count
    seconds: Count


class Plan(Plain, frozen=True, array_like=True, kw_only=True):
    """What moves in one tick.

    head: hash of the journal's last row. base: None for the start. kind: `measure` runs a round only to set the
    exponents of gradient sums and steps nothing. round: optimizer steps taken before this tick. epoch_tick: the
    change that began the epoch, 0 for the start itself. attempt: tries of the same work that were voided. relays:
    identities in use. candidates: for a start or change of members, everyone who may be drawn; else empty. members: for
    every stage its replicas, sorted; for a change of members, those who stay; empty for the start, whose members the
    opening itself draws. exponents: gradient frames, one a boundary. lifts: bits added to the exponents of gradient
    sums, one a stage. work: for every micro-batch its replica (index into members) at every stage; empty for a change.
    session: what a tick of kind `session` answers. bound: for a change of members, beside each candidate the stage that
    its operator held before, counted from 1, or 0. leaving: members who go because they want to: at once, or if nobody
    else holds what they hold, once somebody has taken over.
    """

    run: Hash
    tick: Count
    head: Hash
    base: Base | None
    kind: Kind
    change: Literal["", "start", "turn", "members"]
    round: Count
    epoch: Count
    epoch_tick: Count
    attempt: Count
    relays: tuple[PublicKey, ...]
    candidates: tuple[PublicKey, ...]
    members: tuple[tuple[PublicKey, ...], ...]
    exponents: tuple[Exponent, ...]
    lifts: tuple[Exponent, ...]
    work: Annotated[tuple[tuple[Replica, ...], ...], msgspec.Meta(max_length=1 << 16)]
    session: Session | None = None
    bound: tuple[Count, ...] = ()
    leaving: tuple[PublicKey, ...] = ()

    @property
    def digest(self) -> bytes:
        """H(plan)."""
        return digest("interlock/plan", encode(self))


class Release(Plain, frozen=True, array_like=True, kw_only=True):
    """A gate's answer to a plan: 32 fresh random bytes and a signature over (run, tick, H(plan), contribution)."""

    tick: Count
    plan: Hash
    gate: PublicKey
    contribution: Hash
    signature: Signature

    def body(self, run: bytes) -> bytes:
        """What the signature covers."""
        return digest("interlock/release", run, encode([self.tick, self.plan, self.gate, self.contribution]))


def make_release(gate: Identity, plan: Plan, contribution: bytes) -> Release:
    """A signed release of `plan`; `contribution`: 32 fresh random bytes."""
    draft = Release(tick=plan.tick, plan=plan.digest, gate=gate.public, contribution=contribution, signature=bytes(64))
    return msgspec.structs.replace(draft, signature=gate.sign(draft.body(plan.run)))


class Opening(Message, frozen=True, array_like=True, kw_only=True):
    """A plan and exactly k_e releases in roster order."""

    plan: Plan
    releases: Annotated[tuple[Release, ...], msgspec.Meta(max_length=64)]

    @property
    def digest(self) -> bytes:
        """H(opening)."""
        return digest("interlock/opening", encode(self))


class Began(Message, frozen=True, array_like=True, kw_only=True):
    """The opening that began the epoch, for a node that comes in the middle: the order of the text hangs on it."""

    opening: Opening


def verify_opening(opening: Opening, manifest: Manifest) -> None:
    """Check that a quorum of gates released exactly this plan.

    Raises:
        Refused: E204 wrong run, E301 not exactly k_e releases of different gates in roster order, E302 a release is
            for another plan or tick, E206 a signature does not verify.
    """
    plan, committee = opening.plan, manifest.committee
    if plan.run != manifest.run:
        raise Refused(204, "an opening of another run", expected=manifest.run.hex()[:16], actual=plan.run.hex()[:16])
    seats = {k.key: i for i, k in enumerate(committee.keyholders)}
    order = [seats.get(release.gate, -1) for release in opening.releases]
    if len(order) != committee.release or -1 in order or sorted(set(order)) != order:
        raise Refused(
            301,
            f"the opening of tick {plan.tick}",
            expected=f"{committee.release} releases of different keyholders in roster order",
            actual=f"{len(order)} of seats {order}",
        )
    wanted = plan.digest
    for release in opening.releases:
        whose = committee.keyholders[seats[release.gate]].name
        if release.plan != wanted or release.tick != plan.tick:
            raise Refused(302, f"the release of {whose} in the opening of tick {plan.tick} is for another plan")
        try:
            verify_signature(release.gate, release.body(plan.run), release.signature, whose=f"gate {whose}")
        except VaultError as error:
            raise Refused(206, error.what) from None


def tick_key(opening: Opening) -> bytes:
    """K_tick: permission and fresh randomness, not secrecy."""
    return digest("interlock/tick", opening.plan.digest, *(r.contribution for r in opening.releases))


def beacon(opening: Opening) -> bytes:
    """32 public random bytes that nobody knew before the opening."""
    return digest("interlock/beacon", tick_key(opening))


def order_key(epoch_key: bytes) -> bytes:
    """What an epoch's order of the training text is drawn from; `epoch_key`: K_tick of the change that began it."""
    return digest("interlock/order", epoch_key)


def draw_members(opening: Opening, manifest: Manifest) -> tuple[tuple[bytes, ...], ...]:
    """The members of every stage: named by the plan, or for a start or change of members drawn from its own opening.

    Nobody knew the beacon when the candidates registered, so that stages are drawn and not chosen; everyone
    recomputes the draw. A vacancy goes to the stage with fewest members (those about to leave do not count), the first
    such, as long as somebody may take it.

    Raises:
        Refused: E318, the plan does not bind each of its candidates.
    """
    plan = opening.plan
    if plan.change not in ("start", "members"):
        return plan.members
    if plan.bound and len(plan.bound) != len(plan.candidates):
        raise Refused(318, "a plan binds its candidates", expected=len(plan.candidates), actual=len(plan.bound))
    seed, r = beacon(opening), manifest.replicas
    bound = dict(zip(plan.candidates, plan.bound or (0,) * len(plan.candidates), strict=True))
    waiting = sorted(plan.candidates, key=lambda who: digest("interlock/draw", seed, who))
    if plan.change == "start":
        return tuple(tuple(sorted(waiting[i * r : (i + 1) * r])) for i in range(manifest.stages))
    stages = [list(stage) for stage in plan.members]
    while True:
        sizes = [sum(who not in plan.leaving for who in stage) for stage in stages]
        vacant = sorted((size, stage) for stage, size in enumerate(sizes) if size < r)
        fits = ((stage, who) for _, stage in vacant for who in waiting if bound[who] in (0, stage + 1))
        stage, who = next(fits, (-1, b""))
        if stage < 0:
            return tuple(tuple(sorted(members)) for members in stages)
        stages[stage].append(who)
        waiting.remove(who)


def lead(members: tuple[bytes, ...], epoch: int, tries: int) -> bytes:
    """Who acts for a stage group in a change: members by identity, index (epoch + failed tries) mod size."""
    return members[(epoch + tries) % len(members)]


class Ready(Message, frozen=True, array_like=True, kw_only=True):
    """A gate can answer, a node has reached the relays, or either waits and may have missed something.

    Nodes and relays say it now and then as long as they live: who is silent counts as dead.

    known: how many rows a gate has followed; for nodes and relays, the tick of their newest opening. joins: how many
    joins a node or relay knows of. rows: how many rows from the first one on a gate keeps. missing: relays that a node
    does not reach.
    """

    known: Count
    joins: Count = 0
    rows: Count = 0
    missing: Annotated[tuple[PublicKey, ...], msgspec.Meta(max_length=256)] = ()


class Released(Message, frozen=True, array_like=True, kw_only=True):
    """A gate released the plan."""

    release: Release


class Declined(Message, frozen=True, array_like=True, kw_only=True):
    """A gate refused a plan, and why; carries the newest opening and release it knows."""

    tick: Count
    number: Count
    reason: Annotated[str, msgspec.Meta(max_length=500)]
    opening: Opening | None
    release: Release | None
