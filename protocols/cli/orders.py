"""`interlock keyholder pause|halt|resume|release|sign|inbox|status`: orders, made, signed, delivered and read.

Every command works on files alone; a network only makes it faster. DIR is the directory of a run on this machine, or
the folder of any one of its processes, such as your gate's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Misused
from .app import Json, note, say, say_json
from .keyholder import keyholder
from .options import flatten

if TYPE_CHECKING:
    from interlock.vault import Identity

    from ..manifest import Manifest
    from ..orders import Action, Order, Signed
    from ..standing import Standing

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory, or the folder of a process of it.")]
RESUME_HOURS = 72  # that a resume has to take effect in

DONE = {
    "pause": "every process that hears of it releases, applies and serves nothing until it expires",
    "halt": "every process that hears of it releases, applies and serves nothing until an order to resume",
    "resume": "the run goes on from its last commit; what was open when it stopped is done again",
    "release": "your gate releases the ticks of this epoch, as far as they are within the rules",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """Who signs, and where it goes."""

    key: Annotated[Path, "Your key file."]
    out: Annotated[Path | None, "Write the order to this file and deliver nothing: carry it yourself."] = None
    url: Annotated[str, "Join URL of the run: bring the order to its coordinator too."] = ""
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the word: for scripts.")] = False
    new: Annotated[bool, typer.Option("--new", help="A new order, though one of this kind waits for signatures.")] = (
        False
    )


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with: the run, what is known of its orders, and the time."""

    directory: Path
    manifest: Manifest
    standing: Standing
    now: int = field(default=0)

    @classmethod
    def at(cls, directory: Path) -> Desk:
        """Read a directory."""
        from ..service import orders as service

        manifest = service.manifest_of(directory)
        return cls(directory, manifest, service.known(directory, manifest), int(service.now()))

    def names(self, signed: Signed) -> tuple[list[str], list[str]]:
        """Who signed, and who has not."""
        keyholders = self.manifest.committee.keyholders
        return (
            [k.name for k in keyholders if k.key in signed.signatures],
            [k.name for k in keyholders if k.key not in signed.signatures],
        )

    def shown(self, signed: Signed) -> dict[str, Any]:
        """An order for `--json`."""
        order = signed.order
        have, missing = self.names(signed)
        return {
            "hash": order.hash.hex(),
            "words": order.words,
            "seq": order.seq,
            "action": order.action,
            "cites": order.cites,
            "epoch": order.epoch,
            "not_before": order.not_before,
            "expires": order.expires,
            "reason": order.reason,
            "signed": have,
            "missing": missing,
            "need": order.need(self.manifest.committee),
            "stands": self.standing.said(signed, self.now),
            "text": signed.note(self.manifest.committee),
        }


@keyholder.command()
@flatten
def pause(
    directory: Directory,
    *,
    reason: Annotated[str, typer.Option(help="Why, in one line; everybody reads it.")] = "",
    hours: Annotated[float | None, typer.Option(help="How long. Default: as long as the run allows.")] = None,
    signing: Signing,
    json: Json = False,
) -> None:
    """Stop a run for some hours, alone. It goes on by itself when the pause expires, or earlier by a resume."""
    desk = Desk.at(directory)
    running = desk.standing.in_force(desk.now)
    if running is not None and not signing.new:
        words = f"{running.order.action} {running.order.seq}"
        raise Misused(357, f"the run stands still already, by {words}", todo="A halt is stronger; or give --new.")
    length = desk.manifest.policy.pause_hours if hours is None else hours
    expires = desk.now + max(1, round(length * 3600))
    _issue(desk, "pause", reason, signing, json=json, expires=expires)


@keyholder.command()
@flatten
def halt(
    directory: Directory,
    *,
    reason: Annotated[str, typer.Option(help="Why, in one line; everybody reads it.")] = "",
    signing: Signing,
    json: Json = False,
) -> None:
    """Stop a run until an order to resume. The first keyholder proposes it, the next ones sign the same order."""
    _issue(Desk.at(directory), "halt", reason, signing, json=json, expires=None)


@keyholder.command()
@flatten
def resume(
    directory: Directory,
    *,
    reason: Annotated[str, typer.Option(help="What was found and done, in one line; everybody reads it.")] = "",
    signing: Signing,
    json: Json = False,
) -> None:
    """Let a run go on that stands still. It ends every halt and pause up to the newest that is known here."""
    desk = Desk.at(directory)
    standing, policy = desk.standing, desk.manifest.policy
    stop = standing.in_force(desk.now)
    if stop is None:
        raise Misused(357, "the run does not stand still, as far as is known here", todo="See: keyholder status DIR")
    stops = [s.order for s in standing.open_orders(desk.now) if s.order.action in ("halt", "pause")]
    cites = max(order.seq for order in stops if standing.complete(standing.known[order.hash]))
    begun = max((order.not_before for order in stops if order.action == "halt"), default=0)
    begins = max(desk.now, begun + policy.resume_notice_s if begun else 0)
    _issue(
        desk,
        "resume",
        reason,
        signing,
        json=json,
        expires=begins + RESUME_HOURS * 3600,
        not_before=begins,
        cites=cites,
    )


@keyholder.command()
@flatten
def release(
    epoch: Annotated[int, typer.Argument(help="The epoch that your gate may release, from 0.", min=0)],
    directory: Directory,
    *,
    reason: Annotated[str, typer.Option(help="A line for the record.")] = "released by hand",
    days: Annotated[float, typer.Option(help="How long your word holds.", min=0.01, max=366)] = 30.0,
    signing: Signing,
    json: Json = False,
) -> None:
    """Allow an epoch, where the run says that gates wait for it. It is your word to your gate and to no other."""
    _issue(
        Desk.at(directory),
        "release",
        reason,
        signing,
        json=json,
        expires=None,
        epoch=epoch,
        seconds=round(days * 86400),
    )


@keyholder.command()
@flatten
def sign(
    order: Annotated[str, typer.Argument(help="An order's file, or its first words as 'inbox' shows them.")],
    directory: Directory,
    *,
    signing: Signing,
    json: Json = False,
) -> None:
    """Add your signature to an order that somebody proposed."""
    desk = Desk.at(directory)
    _sign(desk, _found(desk, order), signing, json=json)


@keyholder.command()
def inbox(directory: Directory, json: Json = False) -> None:
    """Show the orders and proposals that are known here and not over."""
    desk = Desk.at(directory)
    found = desk.standing.open_orders(desk.now)
    if json:
        say_json([desk.shown(signed) for signed in found])
        return
    for signed in found:
        _describe(desk, signed)
    if not found:
        say("no order and no proposal")


@keyholder.command()
def status(directory: Directory, json: Json = False) -> None:
    """Show whether the run stands still, by which order, and what would let it go on."""
    desk = Desk.at(directory)
    standing = desk.standing
    stop = standing.in_force(desk.now)
    warnings = [pair.warning(desk.manifest) for pair in standing.evidence()]
    if json:
        answer = standing.answer
        say_json(
            {
                "in_force": None if stop is None else desk.shown(stop),
                "answered": standing.answered,
                "answer": None if answer is None else desk.shown(answer),
                "open": [signed.order.hash.hex() for signed in standing.open_orders(desk.now)],
                "warnings": [{"number": warned.number, "what": warned.text} for warned in warnings],
            }
        )
        return
    if stop is None:
        say("no order is in force")
    else:
        say(f"the run stands still by {stop.order.action} {stop.order.seq}: {stop.order.reason}")
        say(f"  {_end(desk, stop.order)}")
    for warned in warnings:
        note(f"warning: {warned}")


# -- making and signing ------------------------------------------------------------------------------------------


def _issue(
    desk: Desk,
    action: Action,
    reason: str,
    signing: Signing,
    *,
    json: bool,
    expires: int | None,
    not_before: int | None = None,
    seconds: int | None = None,
    **more: int,
) -> None:
    """Make an order and sign it, or sign the one of this kind that waits for signatures."""
    from ..errors import Refused
    from ..orders import Order, Signed, verify_order

    waiting = [
        signed
        for signed in desk.standing.open_orders(desk.now)
        if signed.order.action == action and not desk.standing.complete(signed)
    ]
    if waiting and not signing.new and action != "release":
        if len(waiting) > 1:
            words = ", ".join(signed.order.words for signed in waiting)
            raise Misused(
                357,
                f"several orders to {action} wait for signatures: {words}",
                todo="Take one: keyholder sign WORDS DIR",
            )
        _sign(desk, waiting[0], signing, json=json)
        return
    begins = desk.now if not_before is None else not_before
    seq, prev = (0, None) if action == "release" else desk.standing.next_place()
    order = Order(
        run=desk.manifest.run,
        seq=seq,
        action=action,
        cites=more.get("cites"),
        epoch=more.get("epoch"),
        prev=prev,
        not_before=begins,
        expires=expires if seconds is None else begins + seconds,
        reason=reason,
    )
    try:
        verify_order(order)
    except Refused as refused:
        raise Misused(357, refused.text, todo="Say why in one line: --reason TEXT") from None
    _sign(desk, Signed(order, {}), signing, json=json)


def _sign(desk: Desk, signed: Signed, signing: Signing, *, json: bool) -> None:
    """Show it all, ask for the word, sign, and deliver."""
    from interlock.vault import Identity

    from ..orders import sign

    me = Identity.load(signing.key)
    if me.public not in desk.manifest.committee.identities():
        raise Misused(357, f"{signing.key} is not the key of a keyholder of this run", todo="Name the right --key.")
    if not json:
        _describe(desk, signed)
        say(f"  signing as {_name(desk, me)}: {DONE[signed.order.action]}")
    _confirm(signed.order, signing)
    mine = sign(signed.order, me)
    signed = signed.merged(mine) if signed.signatures else mine
    _verify_useful(desk, signed)
    _deliver(desk, signed, signing, json=json)


def _verify_useful(desk: Desk, signed: Signed) -> None:
    """Nothing leaves this machine that every process would refuse."""
    old = desk.standing.known.get(signed.order.hash)
    if old is None or not old.signatures.keys() >= signed.signatures.keys():
        desk.standing.learn(signed, desk.now)


def _confirm(order: Order, signing: Signing) -> None:
    if signing.yes:
        return
    word = order.action.upper()
    typed = typer.prompt(f"type {word} to sign", default="", show_default=False, err=True)
    if typed != word:
        raise Misused(358, "nothing was signed", expected=word, actual=repr(typed[:20]), todo=f"Type {word}, or --yes.")


def _deliver(desk: Desk, signed: Signed, signing: Signing, *, json: bool) -> None:
    from ..service import orders as service
    from ..service.rundir import write_whole
    from ..service.url import parse_url

    said: dict[str, str] = {}
    if signing.out is not None:
        write_whole(signing.out, signed.note(desk.manifest.committee).encode())
    if signing.url:
        service.send(parse_url(signing.url), signed, desk.manifest, wait_s=15.0)
        said["coordinator"] = "accepted"
    if signing.out is None and not (signing.url and not service.folders(desk.directory)):
        for path, outcome in service.outcomes(service.put(desk.directory, signed, desk.manifest)).items():
            said[path.parent.parent.name] = outcome.strip() or "has not looked yet: it does when it runs"
    order, delivered = signed.order, "accepted" in said.values()
    stands = desk.standing.said(signed, desk.now) if delivered else "delivered to nobody yet"
    if json:
        say_json({**desk.shown(signed), "stands": stands, "delivered": said, "file": _path(signing.out)})
        return
    say(f"signed, {len(signed.signatures)} of {order.need(desk.manifest.committee)}: {stands}")
    if signing.out is not None:
        say(f"  in {signing.out}: carry it to any process of the run, into its folder orders/")
    accepted = [name for name, outcome in said.items() if outcome == "accepted"]
    if accepted:
        say(f"  accepted by {', '.join(accepted)}")
    for name, outcome in said.items():
        if outcome != "accepted":
            note(f"  {name}: {outcome}")


# -- showing -----------------------------------------------------------------------------------------------------


def _describe(desk: Desk, signed: Signed) -> None:
    """One order on one screen: what is asked, by whom, until when, and what happens without you."""
    order = signed.order
    have, missing = desk.names(signed)
    need = order.need(desk.manifest.committee)
    place = f"epoch {order.epoch}" if order.action == "release" else f"number {order.seq}"
    say(f"{order.action} of run '{desk.manifest.name}', {place}: {desk.standing.said(signed, desk.now)}")
    for line in order.text.splitlines():
        say(f"  | {line}")
    say(f"  words: {order.words}")
    say(f"  signed by {', '.join(have) or 'nobody'}: {len(have)} of {need}; not by {', '.join(missing) or 'nobody'}")
    say(f"  {_end(desk, order)}")
    if len(have) < need:
        say(f"  if nobody else signs, nothing happens: it needs {need - len(have)} more")


def _end(desk: Desk, order: Order) -> str:
    from ..orders import shown_time

    if order.expires is None:
        return f"it never expires; {desk.manifest.committee.resume} keyholders resume"
    return f"it expires at {shown_time(order.expires)}"


def _name(desk: Desk, me: Identity) -> str:
    return next(k.name for k in desk.manifest.committee.keyholders if k.key == me.public)


def _found(desk: Desk, text: str) -> Signed:
    """An order by its file, or by how its words begin."""
    from ..orders import read_order
    from ..service import orders as service

    if Path(text).is_file():
        signed = read_order(service.read_file(Path(text)), desk.manifest)
        old = desk.standing.known.get(signed.order.hash)
        return signed if old is None else old.merged(signed)
    found = [s for s in desk.standing.open_orders(desk.now) if s.order.words.startswith(text)]
    if len(found) != 1:
        raise Misused(
            357, f"orders that begin with {text!r}", expected=1, actual=len(found), todo="See: keyholder inbox"
        )
    return found[0]


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
