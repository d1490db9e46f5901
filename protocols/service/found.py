"""Found a run: keys, corpus, manifest. And invite to it."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from interlock.vault import Identity

from .. import corpus
from ..canonical import encode
from ..errors import Misused, Refused
from ..manifest import Committee, Keyholder, Manifest, Model, Policy, Training, read_manifest
from ..members import Invitation, Invited, make_invitation
from ..messages import limits
from . import files, rundir
from .choices import Choices
from .process import PART_BYTES_MAX
from .rundir import RunDir, write_whole

LOCAL_KEYHOLDERS = ("ada", "bela", "cleo", "dora", "emil", "fela", "gita")
INVITED_DAYS = 7.0  # that an invitation may be used first
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")  # it names folders and files


def found(path: Path, choices: Choices) -> tuple[RunDir, Manifest, int]:
    """Make a run's directory; also tell how many files were passed over because they are not text.

    Raises:
        Misused: E60x the corpus, E61x the manifest, E706 the directory. Failed: E707, it cannot be written. Nothing
            is left behind then.
    """
    keys = {"coordinator": Identity.generate()}
    keyholders = [Keyholder(name=name, key=key) for name, key in choices.keyholders]
    for name in LOCAL_KEYHOLDERS[: choices.local]:
        keys[f"keyholder-{name}"] = identity = Identity.generate()
        keyholders.append(Keyholder(name=name, key=identity.public))
    if choices.local:
        members = [f"node-{n}" for n in range(choices.stages * choices.replicas)]
        members += [f"relay-{n}" for n in range(choices.relays)]
        members.append("asker")
        keys |= {name: Identity.generate() for name in members}
    rundir.verify_free(path)
    collected = files.collect(choices.data) if choices.data else files.standard_library()
    if not collected.documents:
        raise Misused(
            601,
            f"there is no text in {', '.join(map(str, choices.data))}",
            expected="files of UTF-8 text without zero bytes",
            actual=f"{collected.skipped} files, empty or of something else",
            todo="Name files or folders with text: --data PATH",
        )
    text = corpus.split(collected.documents, validation_bytes=choices.validation_bytes)
    manifest = _manifest(choices, keys["coordinator"].public, tuple(keyholders), text)
    return rundir.create(path, manifest, text, keys), manifest, collected.skipped


def _manifest(choices: Choices, coordinator: bytes, keyholders: tuple[Keyholder, ...], text: corpus.Corpus) -> Manifest:
    if not keyholders:
        raise Misused(
            610,
            "a run needs keyholders",
            todo="Name them with --keyholder NAME=PUBLICKEY, or try things out with --local.",
        )
    tokens = choices.microbatches * choices.rows * choices.context
    exponent = choices.gradient_exponent
    if exponent is None:
        # Gradients are of the mean over the round's tokens, so a single token's are about 1 / tokens.
        exponent = -math.ceil(math.log2(max(1, tokens))) - 4
    made = Manifest(
        version=1,
        name=choices.name,
        nonce=os.urandom(16),
        coordinator=coordinator,
        committee=Committee(
            keyholders=keyholders,
            release=choices.release,
            halt=choices.halt,
            resume=choices.resume,
            lying=choices.lying,
        ),
        model=Model(
            width=choices.width,
            heads=choices.heads,
            layers_per_stage=choices.layers_per_stage,
            hidden=choices.hidden,
            mlp=choices.mlp,
            context=choices.context,
        ),
        stages=choices.stages,
        replicas=choices.replicas,
        relays=choices.relays,
        data=corpus.describe(corpus.index(text)),
        training=Training(
            rounds=choices.rounds,
            epoch_rounds=choices.epoch_rounds,
            microbatches=choices.microbatches,
            rows=choices.rows,
            rate=choices.rate,
            warmup=choices.warmup,
            decay=choices.decay,
            evaluate_every=choices.evaluate_every,
        ),
        admission=choices.admission,
        release=choices.releasing,
        frame_width=choices.frame_width,
        frame_fraction=choices.frame_fraction,
        gradient_exponent=exponent,
        policy=Policy(
            pause_hours=choices.pause_hours,
            pause_cooldown_days=choices.pause_cooldown_days,
            resume_notice_s=_notice(choices),
        ),
    )
    try:
        manifest = read_manifest(encode(made))  # constructors check no bounds, decoding does
    except Refused as error:
        raise _impossible(made, error.what) from None
    except OverflowError:
        raise Misused(611, "a number is too large", expected="at most 64 bits", todo="Choose a smaller one.") from None
    if (size := limits(manifest).part_bytes) > PART_BYTES_MAX:
        raise Misused(
            611,
            "a stage's gradient sum is too large for one message",
            expected=f"at most {PART_BYTES_MAX} bytes",
            actual=size,
            todo="Choose fewer --layers-per-stage in more --stages, or a smaller --width or --hidden.",
        )
    return manifest


def _notice(choices: Choices) -> int:
    """A run whose keys are all here is for trying things out: nobody needs a day to think."""
    if choices.resume_notice_s is not None:
        return choices.resume_notice_s
    return 0 if choices.local else 86400


def _impossible(made: Manifest, what: str) -> Misused:
    """Say which option is out of bounds; decoding said "malformed manifest: Expected `int` >= 2 - at `$[6]`"."""
    match = re.fullmatch(r"malformed manifest: (.*) - at `\$((?:\[\d+\])+)`", what)
    if match is None:
        return Misused(611, f"impossible manifest: {what}", todo="See: interlock new --help")
    name = ""
    parent: Any = made
    value: Any = made
    for at in map(int, re.findall(r"\d+", match[2])):
        name, parent = value.__struct_fields__[at], value
        value = getattr(value, name)
    kind = get_type_hints(type(parent))[name]
    bound = match[1].removeprefix("Expected ").replace("`", "")
    if get_origin(kind) is Literal:
        bound = " or ".join(str(possible) for possible in get_args(kind))
    option = f"--{name.replace('_', '-')}"
    return Misused(611, option, expected=bound, actual=value, todo=f"Choose another {option}.")


def parse_keyholder(text: str) -> tuple[str, bytes]:
    """Read NAME=PUBLICKEY: the name and the public key.

    Raises:
        Misused: E614.
    """
    name, _, key = text.partition("=")
    if not _NAME.fullmatch(name) or not re.fullmatch(r"[0-9a-f]{64}", key):
        raise Misused(
            614,
            "--keyholder",
            expected="NAME=PUBLICKEY (letters, digits, '._-'; 64 hex digits)",
            actual=repr(text[:80]),
            todo="'interlock keyholder init FILE' prints the public key.",
        )
    return name, bytes.fromhex(key)


def invite(keyholder: Identity, *, run: bytes, role: Invited, label: str, days: float = INVITED_DAYS) -> Invitation:
    """A fresh invitation, signed, that may be used within so many days.

    Raises:
        Misused: E615, the label cannot name anybody.
    """
    if not 1 <= len(label) <= 80:
        raise Misused(615, "--label", expected="1 to 80 characters", actual=len(label), todo="Give a short name.")
    expires = int(time.time() + days * 86400)
    return make_invitation(keyholder, run=run, role=role, label=label, nonce=os.urandom(16), expires=expires)


def write_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation: its canonical bytes in hex. Whoever reads it first can use it, once."""
    write_whole(path, encode(invitation).hex().encode() + b"\n", mode=0o600)


def keyholder_names(committee: Committee, run: RunDir) -> Sequence[str]:
    """Keyholders whose keys are in the run's directory."""
    return [k.name for k in committee.keyholders if run.key(f"keyholder-{k.name}").is_file()]
