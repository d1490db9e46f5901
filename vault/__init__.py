"""What must stay secret, and who may hold it.

Start with `Identity` (a process's keys), `Ratchet`, `GroupKey` and `PairKey` (the secrets behind masks), `BoxKey`
(sealing for one tick) and `Secret` (bytes that do not print). `smallest_cover` says who together would hold it all.
"""

from .backup import open_backup, seal_backup
from .boxes import BoxKey, open_sealed, seal, seal_to
from .coverage import Cover, chance, chance_by_formula, smallest_cover
from .custody import verify_grants
from .errors import BackupRefused, BadSignature, CustodyRefused, Erased, KeyFileRefused, NotOpened, VaultError
from .identity import Identity, verify_key, verify_signature
from .masks import GroupKey, PairKey, Ratchet, salted, secret_id
from .prf import prf
from .secret import Secret

__all__ = [
    "BackupRefused",
    "BadSignature",
    "BoxKey",
    "Cover",
    "CustodyRefused",
    "Erased",
    "GroupKey",
    "Identity",
    "KeyFileRefused",
    "NotOpened",
    "PairKey",
    "Ratchet",
    "Secret",
    "VaultError",
    "chance",
    "chance_by_formula",
    "open_backup",
    "open_sealed",
    "prf",
    "salted",
    "seal",
    "seal_backup",
    "seal_to",
    "secret_id",
    "smallest_cover",
    "verify_grants",
    "verify_key",
    "verify_signature",
]
