"""A node's part in a session: its steps through one stage, and at both ends the question and the answers.

A step of a micro-batch is computed once what it reads is here: at the first stage the question or the byte before, at
every other a frame. While a text is generated one step at most is under way, so that frames need no receipts; while
texts are scored, a few frames may be on their way at a time, as in training.
"""

from __future__ import annotations

from interlock.vault import BoxKey, GroupKey, VaultError, open_sealed, seal

from .boundary import Arrival, Crossing, Frame, Header, Taken, make_unit, verify_header
from .canonical import decode, digest, encode
from .change import Offering, make_offer
from .effects import After, Announce, Blob, Draw, Effects, Send
from .errors import Refused
from .passing import WINDOW
from .round import Answer, Sealed, seal_context, sign
from .round import Answering as Answered
from .seat import Keys, Seat, frame_read
from .session import Byte, Extend, Extended, Question, Scored, readers, replica, share, verify_question

SEALED_KEY_BYTES = 32 + 48  # a session key in a sealed box


class Answering:
    """State of one session at one node."""

    def __init__(self, seat: Seat, keys: Keys) -> None:
        session = seat.plan.session
        assert session is not None
        self._seat, self._keys, self._session = seat, keys, session
        self._mine = share(seat.plan, seat.me, seat.stage)
        self._left = list(self._mine)
        self._steps = dict.fromkeys(self._mine, 0)  # the position that comes next
        self._bytes: dict[int, bytes] = {}  # position -> what the first stage reads there
        self._frames: dict[int, tuple[Header, Blob]] = {}
        self._parents: dict[int, bytes] = {}
        self._seen: dict[tuple[int, int], bytes] = {}
        self._flying: set[bytes] = set()
        self._under_way = False
        self._box: BoxKey | None = None
        self._key: GroupKey | None = None
        self._question: Question | None = None
        self._tokens = 0
        self._cut = False

    @property
    def seat(self) -> Seat:
        """The node's place in this tick."""
        return self._seat

    def begin(self) -> Effects:
        """A reader draws its box key; the last stage looks at the time."""
        seat, effects = self._seat, Effects()
        if seat.me in readers(seat.plan):
            effects.append(Draw(f"session {seat.tick}", 32))
        if seat.last and self._session.length:
            effects.append(After(float(self._session.seconds), f"session {seat.tick}"))
        return effects

    def drawn(self, data: bytes) -> Effects:
        """Publish the box key."""
        seat = self._seat
        self._box = BoxKey(data)
        offer = make_offer(seat.identity, run=seat.plan.run, tick=seat.tick, box=self._box.public)
        return [Send(seat.manifest.coordinator, Offering(offer=offer))]

    def late(self) -> Effects:
        """The time is up: the next byte is the last."""
        self._cut = True
        return []

    # -- what comes ---------------------------------------------------------------------------------------------

    def sealed(self, message: Sealed, blob: Blob) -> Effects:
        """The question, or a byte that our next step reads.

        Raises:
            Refused: E305 not of who may send it, or changed; E510 not what the plan names.
        """
        if digest("interlock/content", bytes(blob.data)) != message.content:
            raise Refused(305, f"sealed traffic of {message.sender.hex()[:12]} was changed on its way")
        if message.purpose == "question" and message.sender == self._session.asker:
            return self._asked(message, bytes(blob.data))
        last = replica(self._seat.plan, len(self._seat.members) - 1, 0)
        if message.purpose == "answer" and message.sender == last and self._seat.first and self._session.length:
            return self._heard(message, bytes(blob.data))
        raise Refused(305, f"sealed traffic '{message.purpose}' that this tick does not have")

    def _asked(self, message: Sealed, data: bytes) -> Effects:
        seat = self._seat
        if self._question is not None:
            return []
        if self._box is None:
            raise Refused(305, "a question before its reader's box key")
        try:
            self._key = GroupKey(self._box.open(data[:SEALED_KEY_BYTES]))
            plain = open_sealed(
                self._key.seal_key("question", message.sender, seat.tick),
                data[SEALED_KEY_BYTES:],
                context=seal_context(seat.plan.run, seat.tick, message.sender, "question", message.part),
            )
            question: Question = decode(plain, Question, whose="question")
        except (VaultError, Refused) as error:
            raise Refused(510, f"a question cannot be read: {error.what}") from None
        verify_question(question, seat.plan, seat.me, seat.stage)
        self._question = question
        return []

    def _heard(self, message: Sealed, data: bytes) -> Effects:
        seat = self._seat
        if self._key is None or message.part + 1 != self._steps.get(0):
            return []  # of a step that is behind us, or that we have not taken
        try:
            plain = open_sealed(
                self._key.seal_key("answer", message.sender, seat.tick),
                data,
                context=seal_context(seat.plan.run, seat.tick, message.sender, "answer", message.part),
            )
            byte: Byte = decode(plain, Byte, whose="generated byte")
        except (VaultError, Refused) as error:
            raise Refused(510, f"a generated byte cannot be read: {error.what}") from None
        if byte.last:
            self._left.clear()
        else:
            self._bytes[message.part + 1] = bytes([byte.value])
        return []

    def frame(self, message: Frame, blobs: tuple[Blob, ...]) -> Effects:
        """A frame for us: checked against the plan before anything is computed.

        Raises:
            Refused: E30x, E319.
        """
        seat, header = self._seat, message.header
        if len(blobs) != 1:
            raise Refused(305, "a frame needs exactly one blob", actual=len(blobs))
        verify_header(header, blobs[0].size, seat.opening, seat.manifest, seat.members)
        unit = header.unit
        if unit.receiver_stage != seat.stage or unit.microbatch not in self._steps:
            raise Refused(305, f"a frame of micro-batch {unit.microbatch} that is not ours to read")
        key = (unit.microbatch, unit.position)
        if key in self._seen:
            if self._seen[key] == header.digest:
                return []
            raise Refused(306, f"two headers of {header.sender.hex()[:12]} for one unit")
        if unit.position != self._steps[unit.microbatch]:
            raise Refused(305, "a frame's position", expected=self._steps[unit.microbatch], actual=unit.position)
        self._seen[key] = header.digest
        self._frames[unit.microbatch] = (header, blobs[0])
        return []

    def taken(self, message: Taken) -> Effects:
        """The receiver read a frame of ours: one more may leave."""
        self._flying.discard(message.header)
        return []

    # -- what is computed ---------------------------------------------------------------------------------------

    def next_job(self) -> Extend | None:
        """The step to compute now, or None while nothing can move."""
        if self._under_way or (not self._seat.last and len(self._flying) >= WINDOW):
            return None
        for microbatch in self._left:
            job = self._step(microbatch)
            if job is not None:
                self._under_way = True
                return job
        return None

    def _step(self, microbatch: int) -> Extend | None:
        seat, session, question = self._seat, self._session, self._question
        position, index = self._steps[microbatch], self._mine.index(microbatch)
        inputs, arrival, out = b"", None, None
        if (seat.first or seat.last) and question is None:
            return None
        if seat.first:
            assert question is not None
            found = question.inputs[index] if position == 0 else self._bytes.pop(position, None)
            if found is None:
                return None
            inputs = found
        else:
            if microbatch not in self._frames:
                return None
            header, blob = self._frames.pop(microbatch)
            assert self._keys.before is not None
            arrival = Arrival(Crossing(header.unit, seat.tick_key, self._keys.before), header, blob)
        if not seat.last:
            assert self._keys.after is not None
            unit = make_unit(
                seat.plan,
                seat.manifest,
                boundary=seat.stage,
                direction="forward",
                microbatch=microbatch,
                position=position,
            )
            out = Crossing(unit, seat.tick_key, self._keys.after)
        rows, positions = session.shapes[microbatch]
        ends = question if seat.last else None
        return Extend(
            tick=seat.tick,
            microbatch=microbatch,
            position=position,
            shape=(rows, positions if position == 0 else 1),
            context=positions + session.length - 1 if session.length else 0,
            inputs=inputs,
            targets=ends.targets[index] if ends is not None and not session.length else b"",
            sampling=ends.sampling if ends is not None else None,
            arrival=arrival,
            out=out,
            group=self._keys.group,
        )

    def extended(self, job: Extend, result: Extended) -> Effects:
        """A step is done: what was read is acknowledged, what came out is sent."""
        seat, microbatch, effects = self._seat, job.microbatch, Effects()
        self._under_way = False
        self._steps[microbatch] += 1
        parents: tuple[bytes, ...] = ()
        if job.arrival is not None:
            header = job.arrival.header
            parents = (header.digest,)
            if not self._session.length:
                receipt = Taken(tick=seat.tick, header=header.digest, sender=header.sender)
                effects.append(Send(seat.relay(microbatch), receipt))
            effects.append(Announce(frame_read(header)))
        if result.departure is not None:
            leaf, sent = seat.send_frame(result.departure, parents)
            if not self._session.length:
                self._flying.add(leaf)
            effects += sent
        if self._steps[microbatch] >= max(1, self._session.length):
            self._left.remove(microbatch)
        if seat.last:
            effects += self._answer(job, result)
        return effects

    def _answer(self, job: Extend, result: Extended) -> Effects:
        seat, session = self._seat, self._session
        assert self._key is not None
        to: tuple[bytes, ...] = (session.asker,)
        if session.length:
            assert result.byte is not None
            last = self._cut or not self._left
            self._tokens += 1
            answer: Byte | Scored = Byte(value=result.byte, last=last)
            part = job.position
            if last:
                self._left.clear()
            to = (session.asker, replica(seat.plan, 0, job.microbatch))
        else:
            answer, part = Scored(nats=result.nats), job.microbatch
            self._tokens += job.shape[0] * job.shape[1]
        context = seal_context(seat.plan.run, seat.tick, seat.me, "answer", part)
        sealed = seal(self._key.seal_key("answer", seat.me, seat.tick), encode(answer), context=context)
        effects: Effects = [*seat.sealed(to, "answer", part, sealed)]
        if not self._left:
            draft = Answer(tick=seat.tick, member=seat.me, tokens=self._tokens, signature=bytes(64))
            signed = sign(draft, seat.identity, seat.plan.run)
            assert isinstance(signed, Answer)
            effects.append(Send(seat.manifest.coordinator, Answered(answer=signed)))
        return effects

    def erase(self) -> None:
        """The session is over: nothing of it is kept."""
        for key in (self._box, self._key):
            if key is not None:
                key.erase()
        self._question = None
        self._bytes.clear()
        self._frames.clear()
