"""What the known orders amount to: whether the run stands still, why, and what would let it go on.

Halt is stronger than pause, pause than resume, resume than release. A resume cites the newest stop that its signers
knew, and ends every stop up to that number; one with a higher number stays in force. A halt has no other end, a pause
expires. Whoever knows the same orders comes to the same standing, in whatever sequence they came.

The time is handed in with each question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import Refused, Warned
from .manifest import Manifest
from .orders import STOPS, Order, Signed, read_order, shown_time

SKEW_S = 60  # clocks may differ by so much: a pause that begins within it has begun
KNOWN_MAX = 512  # orders and proposals
PROPOSALS_MAX = 8  # open ones that one keyholder may have signed
OLD_MAX = 64  # orders that are over and still remembered


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two orders with one number: both took effect, or `by` (keys) signed both."""

    first: Signed
    second: Signed
    by: tuple[bytes, ...]

    def warning(self, manifest: Manifest) -> Warned:
        """E355: what happened and who it was."""
        names = [k.name for k in manifest.committee.keyholders if k.key in self.by]
        who = f"signed by {', '.join(names)}" if names else "signed by different keyholders"
        shown = " and ".join(f"{signed.order.action} {signed.order.words}" for signed in (self.first, self.second))
        return Warned(355, f"two orders have number {self.first.order.seq}, {who}", expected="one", actual=shown)


@dataclass(frozen=True, slots=True)
class Learned:
    """What became of an order. new: it, or signatures on it, were not known. took: orders that took effect now.

    signed: it with all signatures that are known. evidence: what it shows, beside an order known before.
    """

    signed: Signed
    new: bool
    took: tuple[Signed, ...] = ()
    evidence: tuple[Evidence, ...] = ()


@dataclass(slots=True)
class Standing:
    """Everything that somebody knows of a run's orders.

    known: by hash. answered: the highest number that a resume has ended. answer: that resume.
    """

    manifest: Manifest
    known: dict[bytes, Signed] = field(default_factory=dict)
    answered: int = 0
    answer: Signed | None = None

    # -- questions ----------------------------------------------------------------------------------------------

    def in_force(self, now: float) -> Signed | None:
        """The halt or pause for which everything stands still: the strictest, None if there is none."""
        halts, pauses = self._halts(), self._pauses(now)
        if halts:
            return max(halts, key=lambda signed: (signed.order.seq, signed.order.hash))
        return max(pauses, key=lambda signed: (signed.order.expires or 0, signed.order.hash), default=None)

    def next_change(self, now: float) -> float | None:
        """When a pause ends or a resume begins, if nothing comes before."""
        ends = [signed.order.expires or 0 for signed in self._pauses(now)]
        begins = [signed.order.not_before for signed in self._resumes() if signed.order.not_before > now]
        return min([*ends, *begins], default=None)

    def allows(self, epoch: int, keyholder: bytes, now: float) -> bool:
        """Whether a keyholder has released an epoch by hand."""
        return any(
            signed.order.epoch == epoch and keyholder in signed.signatures and now < (signed.order.expires or 0)
            for signed in self.known.values()
        )

    def open_orders(self, now: float) -> list[Signed]:
        """Orders and proposals that are neither over nor ended, by number."""
        return sorted(
            (signed for signed in self.known.values() if not self._over(signed, now)),
            key=lambda signed: (signed.order.seq, signed.order.hash),
        )

    def effective(self) -> list[Signed]:
        """Orders that have taken effect, and whatever has ended them, by number."""
        done = [s for s in self.known.values() if self.complete(s) and s.order.action in STOPS]
        done += [] if self.answer is None else [self.answer]
        return sorted(done, key=lambda signed: (signed.order.seq, signed.order.hash))

    def next_place(self) -> tuple[int, bytes | None]:
        """Number of the next order, and the hash of the one before it."""
        numbered = [signed for signed in self.known.values() if signed.order.seq]
        last = max((signed.order.seq for signed in numbered), default=0)
        before = [signed for signed in numbered if signed.order.seq == last]
        strictest = max(before, key=self._strictness, default=None)
        return last + 1, None if strictest is None else strictest.order.hash

    def said(self, signed: Signed, now: float) -> str:
        """Where an order stands, in a few words."""
        order = signed.order
        if signed is self.answer or (self.answer is not None and order.hash == self.answer.order.hash):
            return "has taken effect"
        if self._over(signed, now):
            return "over"
        if not self.complete(signed):
            need = order.need(self.manifest.committee)
            return f"a proposal: {len(signed.signatures)} of {need} signatures"
        if order.action == "resume":
            return f"takes effect at {shown_time(order.not_before)}"
        return "allowed" if order.action == "release" else "in force"

    def evidence(self) -> list[Evidence]:
        """Every pair of orders with one number that should not be."""
        ordered = sorted(self.known.values(), key=lambda signed: (signed.order.seq, signed.order.hash))
        return [
            pair
            for at, second in enumerate(ordered)
            for first in ordered[:at]
            if (pair := self._pair(first, second)) is not None
        ]

    # -- learning -----------------------------------------------------------------------------------------------

    def learn(self, signed: Signed, now: float) -> Learned:
        """Take in an order whose signatures are verified.

        Raises:
            Refused: E344 to E349, E353 or E356: it can have no effect, and why. Nothing has changed.
        """
        order, key = signed.order, signed.order.hash
        old = self.known.get(key)
        if old is not None and old.signatures.keys() >= signed.signatures.keys():
            return Learned(old, new=False)
        merged = signed if old is None else old.merged(signed)
        was_complete = old is not None and self.complete(old)
        self._verify(order, now)
        if self.complete(merged):
            if not was_complete:
                self._verify_effect(merged)
        else:
            self._verify_room(merged, now)
        evidence = self._evidence_of(merged) if order.seq else ()
        self._forget(now)
        self.known[key] = merged
        took = (merged,) if self.complete(merged) and not was_complete and order.action != "resume" else ()
        return Learned(merged, new=True, took=(*took, *self.settle(now)), evidence=evidence)

    def settle(self, now: float) -> tuple[Signed, ...]:
        """Let resumes take effect whose time has come; give them."""
        took = []
        for signed in self._resumes():
            order = signed.order
            assert order.cites is not None and order.expires is not None
            newer = any(halt.order.seq > order.cites for halt in self._halts())
            if not newer and order.cites > self.answered and order.not_before <= now < order.expires:
                self.answered, self.answer = order.cites, signed
                took.append(signed)
        return tuple(took)

    def complete(self, signed: Signed) -> bool:
        """Whether enough keyholders signed."""
        return signed.complete(self.manifest.committee)

    # -- what is open -------------------------------------------------------------------------------------------

    def _halts(self) -> list[Signed]:
        return [
            signed
            for signed in self.known.values()
            if signed.order.action == "halt" and signed.order.seq > self.answered and self.complete(signed)
        ]

    def _pauses(self, now: float) -> list[Signed]:
        return [
            signed
            for signed in self._granted(self.known.values())
            if signed.order.seq > self.answered and now < (signed.order.expires or 0)
        ]

    def _granted(self, orders: Iterable[Signed]) -> list[Signed]:
        """The pauses of which some signer had one left when it began.

        Counted between beginnings, so that neither an end nor a resume gives a pause back.
        """
        wait = self.manifest.policy.pause_cooldown_days * 86400
        granted, last = [], dict[bytes, int]()
        pauses = [signed for signed in orders if signed.order.action == "pause"]
        for signed in sorted(pauses, key=lambda s: (s.order.not_before, s.order.seq, s.order.hash)):
            begins = signed.order.not_before
            if any(key not in last or begins - last[key] >= wait for key in signed.signatures):
                granted.append(signed)
                last |= dict.fromkeys(signed.signatures, begins)
        return granted

    def _resumes(self) -> list[Signed]:
        found = [
            signed
            for signed in self.known.values()
            if signed.order.cites is not None and signed.order.cites > self.answered and self.complete(signed)
        ]
        return sorted(found, key=lambda signed: (signed.order.seq, signed.order.hash))

    def _over(self, signed: Signed, now: float) -> bool:
        order = signed.order
        if order.expires is not None and now >= order.expires and signed is not self.answer:
            return True
        return (order.cites or order.seq) <= self.answered if order.seq else False

    # -- what is refused ----------------------------------------------------------------------------------------

    def _verify(self, order: Order, now: float) -> None:
        """What can be said of an order whoever signed it."""
        policy = self.manifest.policy
        if order.expires is not None and now >= order.expires:
            raise Refused(344, f"{_named(order)} has expired", expected=f"now before {shown_time(order.expires)}")
        if order.action in STOPS and order.seq <= self.answered:
            assert self.answer is not None
            raise Refused(348, f"{_named(order)} comes again: order {self.answer.order.seq} has ended it")
        if order.action in ("pause", "release") and order.not_before > now + SKEW_S:
            raise Refused(345, f"{_named(order)} begins later", expected=f"now from {shown_time(order.not_before)}")
        if order.action == "pause":
            assert order.expires is not None
            hours = (order.expires - order.not_before) / 3600
            if hours > policy.pause_hours:
                raise Refused(353, _named(order), expected=f"at most {policy.pause_hours} hours", actual=f"{hours:.1f}")
        if order.action == "resume":
            self._verify_resume(order)

    def _verify_resume(self, order: Order) -> None:
        assert order.cites is not None
        if order.cites <= self.answered:
            raise Refused(348, f"{_named(order)} comes again: what it cites has ended", actual=order.cites)
        newer = [halt.order.seq for halt in self._halts() if halt.order.seq > order.cites]
        if newer:
            raise Refused(
                346, f"{_named(order)} leaves a halt open", expected=f"cites {max(newer)}", actual=order.cites
            )
        cited = [s.order for s in self.known.values() if s.order.seq == order.cites and self.complete(s)]
        if not any(other.action in STOPS for other in cited):
            raise Refused(347, f"{_named(order)} cites order {order.cites}, which is no halt or pause that is known")
        before = [s.order.hash for s in self.known.values() if s.order.seq == order.seq - 1 and self.complete(s)]
        if before and order.prev not in before:
            raise Refused(347, f"{_named(order)} does not follow the order {order.seq - 1} that is known")
        notice = self.manifest.policy.resume_notice_s
        begun = max((other.not_before for other in cited if other.action == "halt"), default=None)
        if begun is not None and order.not_before < begun + notice:
            raise Refused(
                353,
                f"{_named(order)} begins too early",
                expected=f"from {shown_time(begun + notice)}",
                actual=shown_time(order.not_before),
            )

    def _verify_effect(self, signed: Signed) -> None:
        """What can be said of one that has enough signatures."""
        order = signed.order
        if order.action == "pause" and signed not in self._granted([*self.known.values(), signed]):
            days = self.manifest.policy.pause_cooldown_days
            raise Refused(349, f"{_named(order)} by keyholders who had theirs", expected=f"one in {days} days")
        if len(self.known) >= KNOWN_MAX * (2 if order.action == "halt" else 1):  # a halt finds room where others do not
            raise Refused(356, f"{_named(order)} has no room", expected=f"at most {KNOWN_MAX} orders")

    def _verify_room(self, signed: Signed, now: float) -> None:
        """Bound what one keyholder can have everybody remember."""
        proposals = [s for s in self.known.values() if not self.complete(s) and not self._over(s, now)]
        for key in signed.signatures:
            mine = sum(key in s.signatures for s in proposals if s.order.hash != signed.order.hash)
            if mine >= PROPOSALS_MAX:
                raise Refused(356, "a keyholder has too many open proposals", expected=f"at most {PROPOSALS_MAX}")

    # -- two orders with one number -----------------------------------------------------------------------------

    def _evidence_of(self, signed: Signed) -> tuple[Evidence, ...]:
        same = [s for s in self.known.values() if s.order.seq == signed.order.seq]
        return tuple(pair for other in same if (pair := self._pair(other, signed)) is not None)

    def _pair(self, first: Signed, second: Signed) -> Evidence | None:
        if not first.order.seq or first.order.seq != second.order.seq or first.order.hash == second.order.hash:
            return None
        by = tuple(sorted(first.signatures.keys() & second.signatures.keys()))
        if by or (self.complete(first) and self.complete(second)):
            return Evidence(first, second, by)
        return None

    def _strictness(self, signed: Signed) -> tuple[bool, int, int, bytes]:
        order = signed.order
        rank = ("release", "resume", "pause", "halt").index(order.action)
        return self.complete(signed), rank, order.expires or 0, order.hash

    def _forget(self, now: float) -> None:
        """Drop what is over, but for the newest: numbers up to `answered` are refused without being remembered."""
        over = [s for s in self.known.values() if self._over(s, now) and not self._recent_pause(s, now)]
        over.sort(key=lambda s: (self.complete(s), s.order.seq, s.order.not_before))
        for signed in over[: max(0, len(over) - OLD_MAX)]:
            del self.known[signed.order.hash]

    def _recent_pause(self, signed: Signed, now: float) -> bool:
        """Whether a pause still keeps its keyholder from the next."""
        wait = self.manifest.policy.pause_cooldown_days * 86400
        return signed.order.action == "pause" and now < signed.order.not_before + wait


def verify_ordered(text: str, manifest: Manifest) -> Signed:
    """Check an order that somebody says took effect.

    Raises:
        Refused: E340 to E342, or E343, too few keyholders signed it.
    """
    signed = read_order(text, manifest)
    if not signed.complete(manifest.committee):
        need = signed.order.need(manifest.committee)
        raise Refused(343, f"{_named(signed.order)}", expected=f"{need} signatures", actual=len(signed.signatures))
    return signed


def _named(order: Order) -> str:
    return f"the {order.action} of epoch {order.epoch}" if order.action == "release" else f"{order.action} {order.seq}"
