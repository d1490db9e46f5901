"""What the pages for keyholders, node operators and askers show is typed, as it stands, and does what they say.

A page's console blocks are typed in their order, in one folder for all pages of a story. `interlock serve` and `up` run
beside the others until the page stops them, or until it shows `^C`, which is pressed at the page's end. So do
`interlock join`s. A page about several machines is typed on this one, with other addresses, as it says itself.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
STAYS = ("interlock serve", "interlock up", "interlock join")  # commands that run until somebody stops them
LOOKS = ("interlock status", "grep", "head", "tail")  # commands that only look: at what others may not have said yet
PATIENCE_S = 90.0

# What may differ each time: keys and digests, then every other number. A page may cut a key short with three points.
MASKS = [
    (r"\b(?=\d*[a-f])([0-9a-f]{12,128}\b|[0-9a-f]{8,64}\.\.\.)", "HEX"),
    (r"\d[\d,.:]*", "N"),
    (r" +", " "),
]


def masked(text: str) -> str:
    """Text without what may differ."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return text.strip()


def says(actual: str, expected: str) -> bool:
    """Whether a command said what a page shows. Three points are anything; alone in a line, any lines or none."""
    parts = re.split(r"(^\.\.\.\n|\.\.\.)", masked(expected), flags=re.MULTILINE)
    pattern = "".join({"...\n": r"(?:.*\n)?", "...": ".*"}.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(pattern, masked(actual), re.DOTALL) is not None


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Each command of a page, and what the page shows after it."""
    for block in CONSOLE.findall(page):
        _, *found = COMMAND.split(block)
        yield from zip(found[::2], found[1::2], strict=True)


@dataclass
class Terminals:
    """A folder to type in, and what runs there."""

    folder: Path
    running: list[tuple[subprocess.Popen[bytes], Path, str, str]] = field(default_factory=list)
    typed: int = 0

    def __post_init__(self) -> None:
        binaries = self.folder / "bin"
        binaries.mkdir()
        interlock = binaries / "interlock"
        interlock.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m interlock.protocols.cli "$@"\n')
        interlock.chmod(0o755)
        self.environment = os.environ | {"COLUMNS": "100", "PATH": f"{binaries}:{os.environ['PATH']}"}
        self.work = self.folder / "work"
        self.work.mkdir()

    def read(self, page: str, *, instead: Mapping[str, str] | None = None) -> None:
        """Type all that a page shows. instead: addresses of this machine for those of the page's machines."""
        text = (DOCS / page).read_text()
        for its, ours in (instead or {}).items():
            text = text.replace(its, ours)
        for command, shown in commands(text):
            self.typed += 1
            if instead is not None and command.startswith(("interlock serve", "interlock join")):
                command += " --local"
            if command.startswith(STAYS):
                self.begin(command, shown)
            else:
                self.type(command, shown)
        self.interrupt()

    def type(self, command: str, shown: str) -> None:
        """Type a command and compare."""
        end = time.monotonic() + (PATIENCE_S if command.startswith(LOOKS) else 0.0)
        while True:
            ran = subprocess.run(
                ["bash", "-c", command], cwd=self.work, env=self.environment, timeout=PATIENCE_S,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            said = ran.stdout.decode(errors="replace")
            if says(said, shown):
                return
            assert time.monotonic() < end, f"$ {command}\n{said}{self.ends()}"
            time.sleep(0.5)

    def begin(self, command: str, shown: str) -> None:
        """Start a process, and wait until it has said what is shown before `^C`."""
        output = self.folder / f"said-{self.typed}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.work, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        before, _, after = shown.partition("^C\n")
        self.running.append((process, output, command, after if "^C\n" in shown else ""))
        self.wait(output, before, command)

    def wait(self, output: Path, shown: str, command: str) -> None:
        """Wait until a process has said what is shown."""
        end = time.monotonic() + PATIENCE_S
        while not says(said := output.read_text(errors="replace"), shown):
            assert time.monotonic() < end, f"$ {command}\n{said}{self.ends()}"
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Press Ctrl-C where the page shows it, and compare what follows."""
        for process, output, command, after in self.running:
            if after and process.poll() is None:
                said = output.read_text(errors="replace")
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE_S) == 0, output.read_text(errors="replace")
                more = output.read_text(errors="replace").removeprefix(said)
                assert says(more, after), f"$ {command}\n^C\n{more}"

    def close(self) -> None:
        """Stop what still runs, by its number, last started first."""
        for _ in range(2):  # the first lets a node hand over, the second ends it
            for process, *_ in reversed(self.running):
                if process.poll() is None:
                    process.terminate()
            time.sleep(0.5)
        for process, *_ in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ends(self) -> str:
        """The ends of all logs."""
        logs = sorted(self.work.rglob("log.txt"))
        return "".join(f"\n{log}:\n" + "\n".join(log.read_text().splitlines()[-3:]) for log in logs)


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    """A folder to type in."""
    made = Terminals(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_keyholders_and_node_operators_make_a_run_as_their_pages_say(terminals: Terminals) -> None:
    terminals.read("keyholder.md")
    terminals.read("node-operator.md")
    assert terminals.typed > 25


def free_port() -> str:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return str(tried.getsockname()[1])


@pytest.mark.slow
def test_several_machines_make_a_run_as_their_page_says(terminals: Terminals) -> None:
    here = {"dc.example.org": "127.0.0.1", "0.0.0.0": "127.0.0.1"}
    terminals.read("machines.md", instead={**here, "7700": free_port(), "7701": free_port()})
    assert terminals.typed > 25


@pytest.mark.slow
def test_a_run_is_asked_as_the_page_says(terminals: Terminals) -> None:
    terminals.read("asking.md")
    assert terminals.typed > 5


# --- links ---

PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "errors").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as they are made from their text."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere; those to other sites are not followed.

    A link through a symbolic link is one, too: sites that show a repository do not follow these.
    """
    found = []
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        target = page if not path else Path(os.path.normpath(page.parent / path))
        if "://" in link:
            continue
        if not target.exists() or target.resolve() != target or (anchor and anchor not in anchors(target.read_text())):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_every_door_is_on_the_first_page() -> None:
    linked = set(LINK.findall((DOCS / "README.md").read_text()))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= linked


def test_broken_links_are_found() -> None:
    text = (
        "[a](no.md) [b](README.md) [c](#none) [d](https://example.org/x) [e](README.md#none) [f](docs/errors/E101.md)"
    )
    assert broken_links(ROOT / "README.md", text) == ["no.md", "#none", "README.md#none", "docs/errors/E101.md"]


def test_masks_hide_only_keys_and_numbers() -> None:
    assert masked("run 'first' 914dcb1743af25cb: ended") == "run 'first' HEX: ended"
    assert says("  5.1374 nats over 16,944 bytes\n", "4.2 nats over 9 bytes\n")
    assert says("82d2a38bd48d58897bf89e0d550f59a29850b7d4bc8552e7d126e8a6ae0cc421\n", "82d2a38b...\n")
    assert not says("82d2a38b\n", "82d2a38b...\n")
    assert not says("run 'first': stopped", "run 'first': ended")
    assert says("a\nb\nc", "a\n...\nc") and says("a\nc", "a\n...\nc") and says("c", "...\nc")
    assert not says("a\nb\nc", "a\n...\nd")


def test_commands_of_a_page_are_found() -> None:
    page = "text\n```console\n$ one \\\n    more\nsaid\n$ two\n```\n```sh\nnot typed\n```\n"
    assert list(commands(page)) == [("one \\\n    more", "said\n"), ("two", "")]
