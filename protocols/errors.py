"""Numbered errors: what, expected, actual, and what to do.

    InterlockError
      Refused        a peer's message or file is not acceptable; carries who sent it
      Misused        a person asked for something impossible; nothing was changed
      Failed         this process cannot go on
      Warned         something to know; shown, and never raised

Numbers are stable: 1xx keys and files, 2xx wire, 3xx ticks and rows, 4xx frames and arithmetic, 5xx changes,
6xx corpus and manifest, 7xx machine, 8xx specs.
"""

from __future__ import annotations

# What the reader can do about a peer's fault, by number, where the error itself does not say it.
_TODO = {
    201: "Compare versions of interlock on both sides; with equal ones, suspect who sent it.",
    202: "Compare versions of interlock on both sides; with equal ones, suspect who sent it.",
    204: "Compare the run's id in both join URLs, and take this run's.",
    205: "Suspect who sent it: it speaks for or to somebody else.",
    206: "Suspect who sent it; or its key file is another than the one it joined with.",
    208: "Is it running, with this run's URL and key? It must join first.",
    209: "Ask a keyholder of this run for an invitation of your own.",
    210: "Compare versions of interlock on both sides; with equal ones, suspect who sent it.",
    211: "Give nodes and relays keys of their own: interlock keyholder init FILE",
    213: "It reads too slowly, or its network is too slow.",
    214: "Start it with --advertise HOST, a name or address at which other machines reach it.",
    221: "Ask a keyholder of this run for a new one: interlock keyholder invite. Is this machine's clock right?",
    301: "Suspect the coordinator: it must list the releases that the manifest asks for.",
    302: "Suspect the coordinator: the releases that it lists are for something else.",
    303: "Suspect who sent it: the plan has no such thing.",
    304: "A late message does no harm; many mean that this process or its peer misses openings.",
    305: "Suspect who sent it, or the relay that it came through.",
    306: "Suspect who sent it, or the relay that it came through.",
    307: "Suspect one of the replicas: their states must be equal to the bit.",
    308: "It joins again by itself, if another replica of its stage is left.",
    310: "Suspect the coordinator: its journal was changed.",
    312: "Suspect the coordinator, or its journal was restored from an old copy.",
    313: "Suspect the coordinator, or its journal was restored from an old copy.",
    314: "Suspect the coordinator: a tick opens once.",
    315: "Suspect the coordinator: its journal was changed.",
    316: "Ask whom the error names: somebody would hold what custody forbids.",
    317: "Suspect the coordinator: its journal breaks the protocol.",
    318: "Suspect the coordinator: its plan breaks the protocol.",
    319: "Suspect the coordinator: it opened one plan with two lists of releases. The tick is void; nothing is lost.",
    321: "Ask for less: fewer or shorter texts, or fewer bytes.",
    336: "Suspect the gate that it names, or its store; the others are asked.",
    337: "Suspect the coordinator: its journal was changed. Keep the gate's store as evidence.",
    340: "Ask for the file again, unchanged: not a character of an order may differ.",
    341: "Take the order to the run that it names.",
    342: "Ask whom it names to sign again, with the key that the manifest has.",
    343: "Suspect the coordinator: it wrote an order that too few keyholders signed.",
    344: "Sign a new one.",
    345: "Is this machine's clock right? Then hand it in again when its time has come.",
    346: "Sign a resume that cites the newest halt: interlock keyholder resume DIR",
    347: "See what is known: interlock keyholder status DIR; then sign a new one.",
    348: "Nothing: it has done what it could. To stop the run again, sign a new order.",
    349: "Let another keyholder pause, or let enough of you halt.",
    350: "Nothing: the same work is planned again after the resume.",
    351: "Ask again after the resume. A keyholder can say when: interlock keyholder status DIR",
    352: "Ask again later: a pause ends by itself.",
    353: "Sign a new one within the policy of the manifest.",
    354: "Allow it: interlock keyholder release EPOCH DIR --key FILE",
    355: "Ask those who signed: one number has one order. The strictest holds.",
    356: "Finish or forget older proposals: interlock keyholder inbox DIR",
    402: "The next attempt uses a larger exponent; if it repeats, lower the learning rate.",
    403: "The next attempt uses a larger exponent; if it repeats, lower the learning rate.",
    404: "Lower the learning rate, or report it with its log.",
    405: "Suspect who sent it, or the relay that it came through.",
    406: "Found the run with a larger --frame-width or a smaller --frame-fraction, or lower the learning rate.",
    501: "Suspect whom it names.",
    502: "Suspect one of them: what they hold must be equal to the bit.",
    503: "Lower the learning rate; if it repeats, report it with its log.",
    510: "Suspect the asker, or who sent it: what cannot be read is not answered.",
    520: "Suspect whom it names: the next attempt takes the state from another replica, if there is one.",
    604: "Suspect the coordinator: the corpus is not the manifest's.",
    605: "The corpus was changed: restore it, or found another run.",
    702: "This process is ending.",
    703: "This is a fault of the program: report it with its log.",
    791: "This is a fault of the program: report it with its log.",
}


class InterlockError(Exception):
    """One numbered error.

    Args:
        number: stable number, see the module's docstring.
        what: one line, lower case, naming whose and what.
        expected, actual: shown when given; never a secret.
        todo: what the reader can do now; by default what goes with the number.
    """

    def __init__(
        self, number: int, what: str, *, expected: object = None, actual: object = None, todo: str = ""
    ) -> None:
        self.number, self.what, self.expected, self.actual = number, what, expected, actual
        self.todo = todo or _TODO.get(number, "")
        super().__init__(str(self))

    def __str__(self) -> str:
        return f"E{self.number} {self.text}"

    @property
    def text(self) -> str:
        """What, expected and actual on one line."""
        said = {"expected": self.expected, "got": self.actual}
        shown = ", ".join(f"{word} {value}" for word, value in said.items() if value is not None)
        return f"{self.what}: {shown}" if shown else self.what


class Refused(InterlockError):
    """A peer's message, row or frame is not acceptable."""


class Overflowed(Refused):
    """Numbers do not fit the exponent that the plan gives them; `bits` more would do."""

    def __init__(self, number: int, what: str, *, bits: int) -> None:
        super().__init__(number, what)
        self.bits = bits


class Misused(InterlockError):
    """A person asked for something that cannot be; nothing was changed."""


class Failed(InterlockError):
    """This process cannot go on."""


class Warned(InterlockError):
    """Something to know: nothing was refused, and the run goes on."""
