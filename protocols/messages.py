"""Which messages each kind of process reads, and how large they may be. Anything else is refused undecoded."""

from __future__ import annotations

from .boundary import Frame, Here, Taken, frame_size
from .change import PART_BYTES, Offering, Offers, Preparing
from .corpus import CHUNK_BYTES
from .fetching import ChunkIs, GetChunk, GetIndex, IndexIs
from .manifest import Manifest
from .members import Join, Leaving, Left, Roster, Still, Welcome
from .moved import Moved
from .obeying import Noted, Ordering
from .proposal import Propose
from .pulse import Beat
from .recovery import Past, Recall, Recalled
from .release import Began, Declined, Opening, Ready, Released
from .round import Answering, Close, Committing, Measuring, Reporting, Sealed, Trouble
from .session import Ask, Over, Queued
from .wire import Limits

BY_COORDINATOR = (
    Join
    | Still
    | Ready
    | Released
    | Declined
    | Recalled
    | GetIndex
    | GetChunk
    | Offering
    | Preparing
    | Committing
    | Reporting
    | Measuring
    | Answering
    | Ask
    | Trouble
    | Leaving
    | Beat
    | Ordering
)
BY_STRANGERS = Join | Still | Ordering  # all that the coordinator reads of somebody unknown
BY_GATE = Welcome | Propose | Recall | Past | Ordering | Noted
BY_RELAY = Welcome | Moved | Roster | Opening | Over | Recall | Here | Frame | Sealed | Taken | Ordering | Noted
BY_NODE = (
    Welcome
    | Moved
    | Left
    | Roster
    | Began
    | Opening
    | IndexIs
    | ChunkIs
    | Offers
    | Close
    | Over
    | Recall
    | Here
    | Frame
    | Sealed
    | Taken
    | Ordering
    | Noted
)
BY_ASKER = Welcome | Roster | Opening | Offers | Queued | Over | Here | Sealed | Ordering | Noted
BY_BEARER = Noted  # who brings an order and belongs to nobody
EVERY = BY_COORDINATOR | BY_GATE | BY_RELAY | BY_NODE | BY_ASKER | BY_BEARER


def limits(manifest: Manifest) -> Limits:
    """Largest message of a run: a frame, a chunk of the corpus, a part of a state, or one replica's gradient sum."""
    sums = max(
        sum(4 * spec.rows * spec.columns for spec in manifest.shape(stage).tensors())
        for stage in range(manifest.stages)
    )
    largest = max(frame_size(manifest), CHUNK_BYTES, PART_BYTES + 1024, sums + 1024, 4 * manifest.model.width**2 + 1024)
    return Limits(envelope_bytes=512, body_bytes=8 << 20, blob_bytes=largest, blobs=1)
