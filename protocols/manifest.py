"""The manifest: what a run is. Its hash is the run's id and stands in the join URL.

It holds model, data, training, thresholds, keyholders' public keys and policies; never nodes or addresses.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from interlock.kernels.errors import KernelError
from interlock.kernels.state import StageShape
from interlock.vault import VaultError, verify_key

from .canonical import Hash, Name, Plain, PublicKey, decode, digest, encode
from .errors import Misused, Refused
from .versions import Versions

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Small = Annotated[int, msgspec.Meta(ge=1, le=64)]
GATES_MAX = 64


class Model(Plain, frozen=True, array_like=True, kw_only=True):
    """Shape of the whole model; every stage holds `layers_per_stage` layers."""

    width: Positive
    heads: Positive
    layers_per_stage: Small
    hidden: Positive
    mlp: Literal["relu2", "swiglu"]
    context: Positive

    def stage(self, index: int, stages: int) -> StageShape:
        """Shape of stage `index` of `stages`."""
        return StageShape(
            width=self.width,
            heads=self.heads,
            layers=self.layers_per_stage,
            hidden=self.hidden,
            mlp=self.mlp,
            first=index == 0,
            last=index == stages - 1,
        )


class Data(Plain, frozen=True, array_like=True, kw_only=True):
    """The corpus: digest of its chunk index, and the sizes of both parts in bytes."""

    index: Hash
    train_bytes: Positive
    validation_bytes: Positive


class Training(Plain, frozen=True, array_like=True, kw_only=True):
    """The optimizer's course.

    A round is `microbatches` micro-batches of `rows` windows. The rate of round r (from 0) of `rounds` rises
    linearly over `warmup` rounds, stays, and falls linearly to zero over the last `decay`. Every epoch of
    `epoch_rounds` rounds ends in a turn. `evaluate_every` 0: only before the first and after the last round.
    """

    rounds: Positive
    epoch_rounds: Positive
    microbatches: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)]
    warmup: Annotated[int, msgspec.Meta(ge=0)]
    decay: Annotated[int, msgspec.Meta(ge=0)]
    evaluate_every: Annotated[int, msgspec.Meta(ge=0)]

    def rate_at(self, round: int) -> float:
        """The learning rate of round `round` (0 is the first that steps)."""
        rate = self.rate
        if round < self.warmup:
            rate = self.rate * ((round + 1) / self.warmup)
        left = self.rounds - round
        if left <= self.decay:
            rate = min(rate, self.rate * (left / (self.decay + 1)))
        return rate


class Keyholder(Plain, frozen=True, array_like=True, kw_only=True):
    """One seat of the committee."""

    name: Name
    key: PublicKey


class Committee(Plain, frozen=True, array_like=True, kw_only=True):
    """Keyholders and thresholds.

    release: k_e, gates whose releases open a tick. halt: k_h, signatures that stop the run. resume: k_r.
    lying: f, gates that may lie; no tick opens two plans while `2 k_e > n + f`.
    """

    keyholders: Annotated[tuple[Keyholder, ...], msgspec.Meta(min_length=1, max_length=GATES_MAX)]
    release: Small
    halt: Small
    resume: Small
    lying: Annotated[int, msgspec.Meta(ge=0, le=64)]

    def identities(self) -> frozenset[bytes]:
        """Identities of all keyholders."""
        return frozenset(k.key for k in self.keyholders)

    def meaning(self) -> list[str]:
        """What the thresholds mean, one sentence each, for people."""
        n, names = len(self.keyholders), ", ".join(k.name for k in self.keyholders)
        return [
            f"{n} keyholders: {names}",
            f"going on needs {self.release} of {n} gates for every tick",
            f"any {n - self.release + 1} keyholders stop the run by doing nothing",
            f"{self.halt} of {n} keyholders halt it at once by an order, any one pauses it, {self.resume} resume",
            f"the run survives the loss of {n - self.release} gates, and {self.lying} lying ones cannot fork it",
        ]


class Policy(Plain, frozen=True, array_like=True, kw_only=True):
    """Bounds on orders.

    pause_hours: what one pause lasts at most. pause_cooldown_days: from the start of a keyholder's pause to the start
    of its next. resume_notice_s: from the start of a halt to the earliest resume.
    """

    pause_hours: Annotated[int, msgspec.Meta(ge=1, le=24 * 7)] = 24
    pause_cooldown_days: Annotated[int, msgspec.Meta(ge=0, le=366)] = 7
    resume_notice_s: Annotated[int, msgspec.Meta(ge=0, le=366 * 86400)] = 0

    def meaning(self) -> list[str]:
        """What it means, one sentence each, for people."""
        notice = "at once" if not self.resume_notice_s else f"{shown_seconds(self.resume_notice_s)} after its start"
        return [
            f"a pause ends by itself after {self.pause_hours} hours; a keyholder has one in {self.pause_cooldown_days} "
            "days",
            f"a halt ends only by an order to resume, at the earliest {notice}",
        ]


def shown_seconds(seconds: int) -> str:
    """A duration in its largest whole unit.

    >>> shown_seconds(86400), shown_seconds(90)
    ('1 day', '90 seconds')
    """
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds % size == 0 and seconds:
            return f"{seconds // size} {unit}{'s' if seconds != size else ''}"
    return f"{seconds} seconds"


class Manifest(Plain, frozen=True, array_like=True, kw_only=True):
    """Everything that all participants agree on before the first tick."""

    version: Literal[1]
    name: Name
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    coordinator: PublicKey
    committee: Committee
    model: Model
    stages: Annotated[int, msgspec.Meta(ge=2, le=64)]
    replicas: Annotated[int, msgspec.Meta(ge=1, le=15)]
    relays: Small
    data: Data
    training: Training
    admission: Literal["invited", "open"]
    release: Literal["automatic", "manual"]  # manual: a gate releases what its keyholder allowed by hand, by epoch
    frame_width: Literal[16, 24, 32]
    frame_fraction: Annotated[int, msgspec.Meta(ge=1, le=30)]
    gradient_exponent: Annotated[int, msgspec.Meta(ge=-60, le=60)]
    policy: Policy = Policy()
    wire: Versions = Versions(oldest=1, newest=1)

    @property
    def run(self) -> bytes:
        """The run's id: 32 bytes."""
        return digest("interlock/manifest", encode(self))

    def shape(self, stage: int) -> StageShape:
        """Shape of one stage."""
        return self.model.stage(stage, self.stages)

    @property
    def tokens_per_round(self) -> int:
        """Bytes predicted in one round."""
        return self.training.microbatches * self.training.rows * self.model.context

    def verify(self) -> None:
        """Check everything that types cannot say.

        Raises:
            Misused: E602 too little text, E610 impossible thresholds, E611 impossible shapes, E612 impossible training.
        """
        committee, n = self.committee, len(self.committee.keyholders)
        if len(committee.identities()) != n or len({k.name for k in committee.keyholders}) != n:
            raise Misused(
                610, "keyholders must have different names and keys", todo="Name each keyholder once, with its own key."
            )
        try:
            for keyholder in committee.keyholders:
                verify_key(keyholder.key, whose=keyholder.name)
            verify_key(self.coordinator, whose="the coordinator")
        except VaultError as error:
            raise Misused(610, error.what, todo="Copy the key that 'interlock keyholder init' printed.") from None
        if self.coordinator in committee.identities():
            raise Misused(610, "the coordinator's key is also a keyholder's", todo="Make a key for each.")
        for label, k in (("release", committee.release), ("halt", committee.halt), ("resume", committee.resume)):
            if k > n:
                raise Misused(
                    610,
                    f"threshold '{label}'",
                    expected=f"at most {n}, as many as there are keyholders",
                    actual=k,
                    todo=f"Lower --{label} or name more keyholders.",
                )
        if 2 * committee.release <= n + committee.lying:
            raise Misused(
                610,
                f"two plans of one tick could both open with n = {n} and f = {committee.lying}",
                expected=f"release >= {(n + committee.lying) // 2 + 1}",
                actual=committee.release,
                todo="Raise the release threshold or name fewer keyholders.",
            )
        if committee.resume < max(committee.halt, committee.release):
            raise Misused(
                610,
                "resuming must not be easier than halting or releasing",
                expected=f"resume >= {max(committee.halt, committee.release)}",
                actual=committee.resume,
                todo="Raise --resume.",
            )
        try:
            for stage in range(self.stages):
                self.shape(stage)
        except KernelError as error:
            raise Misused(611, str(error), todo="Choose a --width of --heads times an even number.") from None
        if self.wire.oldest > self.wire.newest:
            raise Misused(
                611,
                "a run speaks no version of the wire",
                expected="the oldest, then the newest",
                actual=(self.wire.oldest, self.wire.newest),
                todo="Found the run again.",
            )
        if self.frame_width - self.frame_fraction < 4:
            raise Misused(
                611,
                "frames would hold no whole numbers",
                expected=f"a fraction of at most {self.frame_width - 4} bits",
                actual=self.frame_fraction,
                todo="Lower --frame-fraction or raise --frame-width.",
            )
        if self.model.width > 4096:
            raise Misused(
                611,
                "the exact update is proved up to width 4096",
                expected="<= 4096",
                actual=self.model.width,
                todo="Lower --width.",
            )
        if self.training.microbatches < self.replicas:
            raise Misused(
                612,
                "every replica needs a micro-batch",
                expected=f"microbatches >= {self.replicas} replicas",
                actual=self.training.microbatches,
                todo="Raise --microbatches or lower --replicas.",
            )
        window = self.model.context + 1
        for part, size in (("training", self.data.train_bytes), ("validation", self.data.validation_bytes)):
            if size < window * self.training.rows:
                raise Misused(
                    602,
                    f"the {part} text is shorter than one micro-batch",
                    expected=f">= {window * self.training.rows} bytes",
                    actual=size,
                    todo="Give more text with --data, or a shorter --context.",
                )


def read_manifest(data: bytes, *, run: bytes | None = None) -> Manifest:
    """Decode and check a manifest.

    Raises:
        Refused: E201 malformed, E204 its hash is not `run`. Misused: it is impossible.
    """
    manifest: Manifest = decode(data, Manifest, whose="manifest")
    if run is not None and manifest.run != run:
        raise Refused(204, "the manifest is another run's", expected=run.hex()[:16], actual=manifest.run.hex()[:16])
    manifest.verify()
    return manifest


def readable(value: Any) -> Any:
    """Plain dictionaries, with bytes as hex: for people and `--json`; the canonical bytes are what counts."""
    if isinstance(value, msgspec.Struct):
        return {name: readable(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return value
