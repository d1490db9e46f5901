"""`interlock generate` and `interlock evaluate`: ask a run's model."""

from __future__ import annotations

import codecs
import math
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Misused
from ..service import machine
from .app import Json, app, note, say, say_json, visible
from .options import flatten
from .serve import Elsewhere, Limits

Run = Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run that is up here, or its join URL.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who asks."""

    key: Annotated[Path | None, "Key file of whoever asks. Default: that of a run made with --local."] = None
    invitation: Annotated[Path | None, "Invitation with --role asker by a keyholder; needed the first time."] = None
    operator: Annotated[str, "Who asks: a name that everyone in the run sees."] = "asker"
    local: Elsewhere = False


@app.command()
@flatten
def generate(
    run: Run,
    *,
    prompt: Annotated[str, typer.Option(help="Text to continue; - reads it from standard input.")],
    length: Annotated[int, typer.Option(help="Bytes to add.", min=1, max=1_000_000)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest byte every time.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Share of probability that is considered, up to 1.")] = 0.95,
    seed: Annotated[int | None, typer.Option(help="For the same text again. Default: drawn.", min=0)] = None,
    who: Who,
    limits: Limits,
    json: Json = False,
) -> None:
    """Continue a text with a run's model, byte by byte as they come.

    The prompt is sealed to the replicas of the first and last stage that answer, which read it. Nobody else does.
    """
    limits.settle()
    from ..asker import Inquiry
    from ..inquiry import Continuation
    from ..manifest import Manifest
    from ..session import Sampling

    if not (0 <= temperature <= 100 and 0 < top_p <= 1):  # refuses NaN too
        expected = "--temperature 0 to 100 and --top-p above 0, up to 1"
        raise Misused(729, "sampling", expected=expected, actual=(temperature, top_p), todo="Leave them out.")
    text = (sys.stdin.read() if prompt == "-" else prompt).encode(errors="surrogateescape")
    if not text:
        raise Misused(729, "--prompt is empty", todo="Give at least one byte: the model continues something.")
    drawn = secrets.randbelow(2**32) if seed is None else min(seed, 2**52)
    sampling = Sampling(temperature=float(temperature), top_p=float(top_p), seed=drawn)
    got, start, first = bytearray(), machine.now_s(), math.nan
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def told(byte: int) -> None:
        nonlocal first
        if not got:
            first = machine.now_s()
            if not json:
                typer.echo(visible(text.decode(errors="replace")), nl=False)
        got.append(byte)
        if not json:
            typer.echo(visible(decoder.decode(bytes([byte]))), nl=False)
            sys.stdout.flush()

    def inquire(manifest: Manifest) -> Inquiry:
        return Continuation(text, length, sampling, manifest, told=told)

    try:
        _ask(run, who, inquire)
    except KeyboardInterrupt:
        if not json:
            typer.echo("")
        note(f"stopped after {len(got)} of {length} bytes")
        raise typer.Exit(130) from None
    if json:
        took = machine.now_s() - first
        said = {
            "prompt": text.decode(errors="replace"),
            "text": bytes(got).decode(errors="replace"),
            "bytes": len(got),
            "seed": drawn,
            "first_s": first - start,
            "bytes_per_second": (len(got) - 1) / took if took > 0 and len(got) > 1 else None,
        }
        say_json(said)
    else:
        typer.echo(visible(decoder.decode(b"", final=True)))


@app.command()
@flatten
def evaluate(
    run: Run,
    *,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text files or folders; repeat. Default: the held-out text of the run in the directory."),
    ] = None,
    who: Who,
    limits: Limits,
    json: Json = False,
) -> None:
    """Score texts with a run's model: nats and bits a byte, file by file.

    The texts are sealed to the replicas of the first and last stage that answer, which read them. Nobody else does.
    """
    limits.settle()
    from ..asker import Inquiry
    from ..inquiry import Examination
    from ..manifest import Manifest

    texts = _texts(run, data)
    sizes, nats, total = [0] * len(texts), [0.0] * len(texts), sum(max(0, len(text) - 1) for _, text in texts)
    if not total:
        raise Misused(730, "there is nothing to score", todo="Name files with at least two bytes of text.")
    said = machine.now_s()

    def told(index: int, size: int, score: float) -> None:
        nonlocal said
        sizes[index] += size
        nats[index] += score
        if machine.now_s() - said > 2 or sum(sizes) == total:
            said = machine.now_s()
            note(f"scored {sum(sizes):,} of {total:,} bytes")

    def inquire(manifest: Manifest) -> Inquiry:
        return Examination([text for _, text in texts], manifest, told=told)

    try:
        _ask(run, who, inquire)
    except KeyboardInterrupt:
        note(f"stopped after {sum(sizes):,} of {total:,} bytes")
        raise typer.Exit(130) from None
    files: list[dict[str, Any]] = [
        {"file": name, "bytes": size, "nats_per_byte": score / size, "bits_per_byte": score / size / math.log(2)}
        for (name, _), size, score in zip(texts, sizes, nats, strict=True)
        if size
    ]
    mean = sum(nats) / sum(sizes)
    whole = {"bytes": sum(sizes), "nats_per_byte": mean, "bits_per_byte": mean / math.log(2)}
    if json:
        say_json({"files": files, **whole})
        return
    for line in files if len(files) > 1 else []:
        say(f"{line['nats_per_byte']:8.4f} nats {line['bits_per_byte']:8.4f} bits a byte  {line['file']}")
    say(f"{mean:8.4f} nats {mean / math.log(2):8.4f} bits a byte  over {sum(sizes):,} bytes")


def _ask(run: str, who: Who, inquire: Any) -> None:
    from ..asker import Waits
    from ..effects import Event
    from ..service import asking

    guest, invitation = asking.guest_of(run, who.key, who.invitation, who.operator, local=who.local)
    said = ""

    def observe(event: Event) -> None:
        nonlocal said
        if isinstance(event, Waits):
            behind = f"{event.ahead} sessions before ours; " if event.ahead else ""
            text = f"waiting: {behind}a round of training goes on" if event.training else f"waiting: {behind}"
            if (event.ahead or event.training) and text != said:
                said = text
                note(text.rstrip("; "))

    with asking.Turn(who.key or Path(run) / "keys" / "asker.key"):
        asking.ask(guest, invitation=invitation, inquire=inquire, observe=observe)


def _texts(run: str, data: list[Path] | None) -> list[tuple[str, bytes]]:
    from ..service import files
    from ..service.rundir import RunDir

    if data:
        return [(document.name, document.data) for document in files.collect(data).documents]
    if run.startswith("interlock:"):
        raise Misused(730, "there is nothing to score", todo="Name text with --data, or a run's directory.")
    directory = RunDir(Path(run))
    text, _ = directory.corpus(directory.manifest())
    return [("held-out text", text.validation)]
