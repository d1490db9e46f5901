"""A node's part in a change tick: box keys, dealt secrets, contributions, matrices, shards, and the new state.

What arrives before its turn waits: nothing here depends on the order in which messages come.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from interlock.vault import (
    BoxKey,
    GroupKey,
    PairKey,
    Ratchet,
    Secret,
    VaultError,
    open_sealed,
    prf,
    seal_to,
    secret_id,
)

from .canonical import digest
from .change import (
    PARTS_MAX,
    BoxOffer,
    Change,
    Export,
    Exported,
    Offering,
    Offers,
    Prepare,
    Prepared,
    PreparedState,
    Preparing,
    Rotated,
    Rotation,
    combine,
    contribution_commitment,
    make_offer,
    sign_prepared,
    verify_offer,
)
from .effects import Blob, Draw, Effects, Send
from .errors import Refused
from .release import lead
from .round import Sealed, seal_context
from .seat import Seat, Secrets

NONE = bytes(32)
GROUP, BEFORE, AFTER = 0, 1, 2  # parts of purpose "secret"
WAITING_MAX = 64  # sealed messages that cannot be opened yet; 15 replicas send at most 33
WANTED = 4  # parts of a state under way to a newcomer


@dataclass(slots=True)
class _Drawn:
    """Random bytes of this tick, all of them ours."""

    contribution: bytes
    group: bytes
    pair: bytes
    bridge: bytes
    once: Secret  # what the one-time keys of sealed boxes come from


@dataclass(slots=True)
class Changing:
    """State of one change tick at one node."""

    seat: Seat
    needs_text: bool
    _box: BoxKey | None = None
    _drawn: _Drawn | None = None
    _offers: dict[bytes, BoxOffer] = field(default_factory=dict)
    _waiting: list[tuple[Sealed, Blob]] = field(default_factory=list)
    _secrets: dict[int, Secret] = field(default_factory=dict)
    _given: bool = False
    _group: GroupKey | None = None
    _pairs: dict[int, PairKey] = field(default_factory=dict)
    _commits: dict[bytes, bytes] = field(default_factory=dict)
    _reveals: dict[bytes, bytes] = field(default_factory=dict)
    _matrix: bytes | None = None  # as shipped by our lead: this group's turn, or its first bridge
    _turn_before: bytes | None = None
    _exported: Exported | None = None
    _wants: list[tuple[bytes, int]] = field(default_factory=list)  # newcomers, and the part that each wants next
    _size: int | None = None  # parts of the state that a newcomer gets
    _parts: dict[int, Blob] = field(default_factory=dict)
    _seed: Secret = field(default_factory=lambda: Secret(b""))
    _asked: set[str] = field(default_factory=set)
    _sent: set[str] = field(default_factory=set)

    @property
    def newcomers(self) -> tuple[bytes, ...]:
        """Who gets our stage's state in this tick."""
        seat = self.seat
        if seat.plan.change != "members":
            return ()
        return tuple(who for who in seat.group if who not in seat.plan.members[seat.stage])

    def begin(self) -> Effects:
        """Draw this tick's randomness."""
        return [Draw(f"change {self.seat.tick}", 32 * 6)]

    def drawn(self, data: bytes) -> Effects:
        """Publish the box key."""
        if self._box is not None:
            return []
        parts = [data[i : i + 32] for i in range(0, 192, 32)]
        self._box = BoxKey(parts[0])
        self._drawn = _Drawn(
            contribution=parts[1], group=parts[2], pair=parts[3], bridge=parts[4], once=Secret(parts[5])
        )
        seat = self.seat
        offer = make_offer(seat.identity, run=seat.plan.run, tick=seat.tick, box=self._box.public)
        return [Send(seat.manifest.coordinator, Offering(offer=offer))]

    def offers(self, message: Offers) -> Effects:
        """Everyone's box keys: leads deal.

        Raises:
            Refused: E304, E306 not exactly the members, E206; E501, a box key that nothing can be sealed to.
        """
        seat = self.seat
        if self._offers:
            return []
        everyone = {who for stage in seat.members for who in stage}
        offers = {offer.member: offer for offer in message.offers}
        if set(offers) != everyone or len(message.offers) != len(everyone):
            raise Refused(306, f"box keys of tick {seat.tick}", expected=len(everyone), actual=len(offers))
        for offer in message.offers:
            verify_offer(offer, run=seat.plan.run, tick=seat.tick)
        self._offers = offers
        effects: Effects = []
        if self._drawn is not None and self._lead(seat.stage) == seat.me:
            effects += self._deal(GROUP, self._drawn.group, seat.group)
            if not seat.last:
                effects += self._deal(AFTER, self._drawn.pair, seat.group)
                effects += self._deal(BEFORE, self._drawn.pair, seat.members[seat.stage + 1])
        return effects + self.move()

    def sealed(self, message: Sealed, blob: Blob) -> Effects:
        """Sealed traffic of this tick.

        Raises:
            Refused: E305, who sent it may not send such; or it was changed on its way.
        """
        self._verify_sender(message)
        if digest("interlock/content", bytes(blob.data)) != message.content:
            raise Refused(305, f"sealed traffic of {message.sender.hex()[:12]} was changed on its way")
        if message.purpose == "shard":
            return self._part(message.part, blob)
        if len(self._waiting) >= WAITING_MAX:
            raise Refused(305, f"more than {WAITING_MAX} sealed messages wait in tick {self.seat.tick}")
        self._waiting.append((message, blob))
        return self.move()

    def move(self) -> Effects:
        """Do whatever what has arrived allows."""
        seat, effects = self.seat, Effects()
        self._read()
        if seat.plan.change == "members":
            return self._hand_over()
        if self._group is not None and self._drawn is not None and "commit" not in self._sent:
            self._sent.add("commit")
            ours = self._drawn.contribution
            mark = contribution_commitment(seat.plan.run, seat.tick, seat.me, ours)
            self._commits[seat.me], self._reveals[seat.me] = mark, ours
            effects += seat.seal_and_send(self._group, seat.others, "commit", 0, mark)
        if set(self._commits) == set(seat.group) and "reveal" not in self._sent and self._group is not None:
            self._sent.add("reveal")
            effects += seat.seal_and_send(self._group, seat.others, "reveal", 0, self._reveals[seat.me])
            self._read()
        return effects

    def _hand_over(self) -> Effects:
        """Give newcomers the parts that they want; or, being one, want them."""
        seat, effects, newcomers = self.seat, Effects(), self.newcomers
        if self._exported is not None:
            if newcomers and "size" not in self._sent:
                self._sent.add("size")
                effects += seat.sealed(newcomers, "size", 0, self._exported.size)
            for who, part in self._wants:
                if part < len(self._exported.parts):
                    effects += seat.sealed((who,), "shard", part, self._exported.parts[part])
            self._wants.clear()
        if self._size is not None and "want" not in self._sent:
            self._sent.add("want")
            for part in range(min(WANTED, self._size)):
                effects += self._want(part)
        return effects

    def _want(self, part: int) -> Effects:
        assert self._group is not None
        return [*self.seat.seal_and_send(self._group, (self._lead(self.seat.stage),), "want", part, b"")]

    def _part(self, part: int, blob: Blob) -> Effects:
        """A part of the state that we get: opened by the worker, with all others."""
        if self._size is None or part >= self._size:
            raise Refused(305, f"part {part} of a state that has no such part")
        if part in self._parts:
            return []
        self._parts[part] = blob
        following = part + WANTED
        return self._want(following) if following < self._size else []

    def next_job(self, *, has_text: bool) -> Export | Rotation | Prepare | None:
        """The next thing to compute, once what it needs is here."""
        if self.seat.plan.change == "members":
            return self._next_of_members(has_text=has_text)
        seat, start = self.seat, self.seat.plan.change == "start"
        if self._group is None or set(self._reveals) != set(seat.group) or self._drawn is None:
            return None
        leads = self._lead(seat.stage) == seat.me
        needs_matrix = not (start and seat.first)
        if needs_matrix and self._matrix is None:
            if not leads or "rotation" in self._asked:
                return None
            self._asked.add("rotation")
            if start:
                return Rotation(tick=seat.tick, seed=self._drawn.bridge, use="bridge")
            return Rotation(tick=seat.tick, seed=combine(self._reveals), use="turn")
        if not start and not seat.first and self._turn_before is None:
            return None
        if not self._may_prepare(has_text=has_text):
            return None
        self._seed = Secret(combine(self._reveals))
        return self._prepare("start" if start else "turn")

    def _next_of_members(self, *, has_text: bool) -> Export | Prepare | None:
        seat, newcomers = self.seat, self.newcomers
        if self._group is None:
            return None
        if newcomers and self._lead(seat.stage) == seat.me and "export" not in self._asked:
            self._asked.add("export")
            return Export(tick=seat.tick, run=seat.plan.run, sender=seat.me, group=self._group)
        if seat.me in newcomers and (self._size is None or len(self._parts) < self._size):
            return None
        return self._prepare("members") if self._may_prepare(has_text=has_text) else None

    def _may_prepare(self, *, has_text: bool) -> bool:
        """Whether secrets and text are here, and we have not begun to."""
        seat = self.seat
        if (not seat.first and BEFORE not in self._pairs) or (not seat.last and AFTER not in self._pairs):
            return False
        if "prepare" in self._asked or (self.needs_text and not has_text):
            return False
        self._asked.add("prepare")
        return True

    def _prepare(self, change: Change) -> Prepare:
        seat, arrives = self.seat, self.seat.me in self.newcomers
        assert self._group is not None
        return Prepare(
            tick=seat.tick,
            stage=seat.stage,
            change=change,
            run=seat.plan.run,
            seed=self._seed,
            group=self._group,
            before=self._pairs.get(BEFORE),
            after=self._pairs.get(AFTER),
            bridge=self._matrix if change == "start" else None,
            turn=self._matrix if change == "turn" else None,
            turn_before=self._turn_before,
            source=self._lead(seat.stage) if arrives else None,
            shard=tuple(self._parts[number] for number in range(len(self._parts))) if arrives else (),
        )

    def exported(self, result: Exported) -> Effects:
        """Our stage's state is sealed, for newcomers."""
        self._exported = result
        return self.move()

    def rotated(self, result: Rotated) -> Effects:
        """Our group's matrix is drawn: ship it as integers."""
        seat = self.seat
        assert self._group is not None
        self._matrix = bytes(result.matrix.data)
        effects: Effects = [*seat.seal_and_send(self._group, seat.others, "matrix", 0, self._matrix)]
        if seat.plan.change == "turn" and not seat.last:
            pair, after = self._pairs[AFTER], seat.members[seat.stage + 1]
            effects += seat.seal_and_send(pair, after, "turn", 0, self._matrix)
        return effects

    def prepared(self, result: PreparedState) -> Effects:
        """The new state stands beside the base: tell the coordinator."""
        seat = self.seat
        ids = [secret_id(self._secrets[part]) if part in self._secrets else NONE for part in (GROUP, BEFORE, AFTER)]
        draft = Prepared(
            tick=seat.tick,
            member=seat.me,
            secrets=(ids[0], ids[1], ids[2]),
            state=result.state,
            turns=result.turns,
            seed=result.seed,
            signature=bytes(64),
        )
        prepared = sign_prepared(draft, seat.identity, seat.plan.run)
        return [Send(seat.manifest.coordinator, Preparing(prepared=prepared))]

    def secrets(self) -> Secrets:
        """The new ratchets, for when the change becomes the base. They are the caller's to erase from now on."""
        self._given = True
        return Secrets(
            group=Ratchet(self._secrets[GROUP], self.seat.tick),
            before=Ratchet(self._secrets[BEFORE], self.seat.tick) if BEFORE in self._secrets else None,
            after=Ratchet(self._secrets[AFTER], self.seat.tick) if AFTER in self._secrets else None,
        )

    def erase(self) -> None:
        """The tick is over: its box key and derived keys go."""
        if self._box is not None:
            self._box.erase()
        for key in (self._group, *self._pairs.values()):
            if key is not None:
                key.erase()
        if not self._given:
            for secret in self._secrets.values():
                secret.erase()
        if self._drawn is not None:
            self._drawn.once.erase()
        self._drawn = None
        self._reveals.clear()
        self._parts.clear()
        self._exported = None
        self._seed.erase()
        self._matrix = self._turn_before = None

    # -----------------------------------------------------------------------------------------------------------

    def _lead(self, stage: int) -> bytes:
        """Who acts for a stage: of those who were there before, if there are such."""
        plan = self.seat.plan
        members = plan.members if plan.change == "members" else self.seat.members
        return lead(members[stage], plan.epoch, plan.attempt)

    def _deal(self, part: int, secret: bytes, to: tuple[bytes, ...]) -> Effects:
        """Seal one fresh secret to each receiver's box key."""
        effects: Effects = []
        assert self._drawn is not None
        for who in to:
            if who == self.seat.me:
                self._secrets[part] = Secret(secret)
                continue
            drawn = prf(self._drawn.once, "one-time key", who, bytes([part]))
            try:
                sealed = seal_to(self._offers[who].box, Secret(secret), drawn=drawn)
            except VaultError as error:  # signed by its member, who chose it so
                raise Refused(501, f"a secret cannot be dealt to {who.hex()[:12]}: {error.what}") from None
            effects += self.seat.sealed((who,), "secret", part, sealed)
        return effects

    def _verify_sender(self, message: Sealed) -> None:
        seat, stage = self.seat, self.seat.stage
        before = stage - 1
        purpose, part, newcomers = message.purpose, message.part, self.newcomers
        allowed: tuple[bytes, ...] = ()
        if purpose in ("commit", "reveal"):
            allowed = seat.others
        elif purpose == "want" and self._lead(stage) == seat.me:
            allowed = newcomers
        elif purpose in ("size", "shard") and seat.me not in newcomers:
            allowed = ()
        elif purpose in ("size", "shard", "matrix") or (purpose == "secret" and part in (GROUP, AFTER)):
            allowed = (self._lead(stage),)
        elif (purpose == "turn" or (purpose == "secret" and part == BEFORE)) and before >= 0:
            allowed = (self._lead(before),)
        if message.sender not in allowed:
            raise Refused(305, f"{message.sender.hex()[:12]} may not send '{message.purpose}' in tick {seat.tick}")

    def _read(self) -> None:
        """Open what has arrived and can be opened, until nothing more can."""
        box, again = self._box, True
        while again:
            again = False
            for index, (message, blob) in enumerate(self._waiting):
                purpose, sealed = message.purpose, bytes(blob.data)
                key: GroupKey | PairKey | None = self._pairs.get(BEFORE) if purpose == "turn" else self._group
                if purpose == "secret":
                    if box is None:
                        continue
                    if message.part not in self._secrets:
                        self._secrets[message.part] = self._open(message, box, sealed)
                elif key is None or (purpose == "reveal" and message.sender not in self._commits):
                    continue
                else:
                    self._take(message, key, sealed)
                del self._waiting[index]
                again = True
                break
            if self._group is None and GROUP in self._secrets:
                self._group, again = GroupKey(Secret(self._secrets[GROUP].reveal())), True
            for part in (BEFORE, AFTER):
                if part in self._secrets and part not in self._pairs:
                    self._pairs[part], again = PairKey(Secret(self._secrets[part].reveal())), True

    def _open(self, message: Sealed, box: BoxKey, sealed: bytes) -> Secret:
        try:
            secret = box.open(sealed)
        except VaultError as error:
            raise Refused(501, f"a secret dealt by {message.sender.hex()[:12]}: {error.what}") from None
        if len(secret.reveal()) != 32:
            raise Refused(501, f"a secret dealt by {message.sender.hex()[:12]} is not 32 bytes long")
        return secret

    def _take(self, message: Sealed, key: GroupKey | PairKey, sealed: bytes) -> None:
        seat, who = self.seat, message.sender
        context = seal_context(seat.plan.run, seat.tick, who, message.purpose, message.part)
        try:
            plain = open_sealed(key.seal_key(message.purpose, who, seat.tick), sealed, context=context)
        except VaultError as error:
            raise Refused(501, f"'{message.purpose}' of {who.hex()[:12]}: {error.what}") from None
        if message.purpose in ("commit", "reveal"):
            if len(plain) != 32:
                raise Refused(501, f"a {message.purpose} of {who.hex()[:12]} is not 32 bytes long")
            if message.purpose == "commit":
                self._commits.setdefault(who, plain)
                return
            mark = contribution_commitment(seat.plan.run, seat.tick, who, plain)
            if not hmac.compare_digest(mark, self._commits[who]):
                raise Refused(501, f"{who.hex()[:12]} showed another contribution than it committed to")
            self._reveals.setdefault(who, plain)
            return
        if message.purpose == "want":
            self._wants.append((who, message.part))
            return
        if message.purpose == "size":
            size = int.from_bytes(plain, "little")
            if len(plain) != 8 or not 1 <= size <= PARTS_MAX:
                raise Refused(520, f"a state of {who.hex()[:12]}", expected=f"1 to {PARTS_MAX} parts", actual=size)
            self._size = size
            return
        width = seat.manifest.model.width
        if len(plain) != width * width * 4:
            raise Refused(501, f"a matrix of {who.hex()[:12]}", expected=width * width * 4, actual=len(plain))
        if message.purpose == "turn":
            self._turn_before = plain
        else:
            self._matrix = plain
