"""What `doctor` asks of this machine, of a run's directory, and of the network."""

from __future__ import annotations

import asyncio
import errno
import importlib
import importlib.util
import locale
import os
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from interlock import __version__
from interlock.vault import Identity, VaultError

from ..errors import InterlockError
from .answers import Answer, answers
from .checks import Clocks, Folder, Key, Library, Machine, Peer, Port, Text
from .rundir import RunDir
from .url import JoinURL, parse_url

CONNECT_S, HANDSHAKE_S = 2.0, 4.0
WAIT_S = 0.05
SPEED_S = 0.15  # each thing is timed for about so long
# Where it is not the name itself.
IMPORTED = {
    "cryptography": "cryptography",
    "prometheus-client": "prometheus_client",
    "pynacl": "nacl",
    "pyzmq": "zmq",
}
OPTIONAL = {"triton": "3.0"}


@dataclass(frozen=True, slots=True)
class Place:
    """What the examination is about beside the machine."""

    run: RunDir | None
    url: JoinURL | None


def place(target: str) -> Place:
    """A join URL, a run's directory (with the URL in it while its coordinator runs), or nothing.

    Raises:
        Misused: E613, E705.
    """
    if not target:
        return Place(None, None)
    if "://" in target:
        return Place(None, parse_url(target.strip()))
    run = RunDir(Path(target))
    run.manifest()
    return Place(run, parse_url(run.url.read_text(encoding="ascii").strip()) if run.url.is_file() else None)


# --- libraries ---


def libraries() -> Iterator[Library]:
    """Python, interlock, and all that interlock requires."""
    yield Library(name="python", least="3.11", version=".".join(map(str, sys.version_info[:3])))
    yield Library(name="interlock", least="0", version=__version__)
    try:
        listed = requires("interlock") or []
    except PackageNotFoundError:
        listed = []
    wanted = [found for each in listed if (found := re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+)", each))]
    for found in wanted:
        yield _library(found[1], found[2], needed=True)
    for name, least in OPTIONAL.items():
        if importlib.util.find_spec(name) is not None:
            yield _library(name, least, needed=False)


def _library(name: str, least: str, *, needed: bool) -> Library:
    try:
        module = importlib.import_module(IMPORTED.get(name, name))
    except Exception as error:  # a damaged library may raise whatever it likes
        return Library(name=name, least=least, missing=f"{type(error).__name__}: {error}", needed=needed)
    version = getattr(module, "__version__", None) or importlib.metadata.version(name)
    if name == "pynacl":
        version = f"{version} with a libsodium that it does not name"
    return Library(name=name, least=least, version=str(version), needed=needed)


def curve() -> tuple[bool, str]:
    """Whether libzmq has CURVE, and its version."""
    try:
        import zmq
    except ImportError:
        return False, "no libzmq"
    return zmq.has("curve"), zmq.zmq_version()


# --- answers and arithmetic ---


def answered() -> Iterator[tuple[Answer, str]]:
    """Every known answer beside what comes out here: hexadecimal, or the words of an error."""
    for known in answers():
        yield known, _said(lambda known=known: known.get().hex())  # type: ignore[misc]


def _said(call: Callable[[], str]) -> str:
    """A result, or the words of whatever was raised: a damaged library may raise anything."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def arithmetic() -> dict[str, str]:
    """What was tried, and what is wrong with it."""
    tried: dict[str, Callable[[], str]] = {
        "products in numpy": lambda: _products("numpy"),
        "products in torch": lambda: _products("torch"),
        "rounding in numpy": lambda: _rounding("numpy"),
        "rounding in torch": lambda: _rounding("torch"),
        "subnormals in numpy": lambda: _subnormals("numpy"),
        "subnormals in torch": lambda: _subnormals("torch"),
        "a stage in torch": _stage,
    }
    if importlib.util.find_spec("jax") is not None:
        tried["rounding in jax"] = lambda: _rounding("jax.numpy")
    if importlib.util.find_spec("interlock.kernels.stage_jax") is not None:
        tried["a stage in jax, against torch"] = _stages_agree
    return {name: _said(call) for name, call in tried.items()}


def _products(library: str) -> str:
    """Integer products near 2**53 through `kernels.exact`, against Python's integers."""
    import numpy as np

    from interlock.kernels.exact import matmul

    xp = importlib.import_module(library)
    dice = np.random.default_rng(1)
    a, b = (dice.integers(-(2**22), 2**22, size) for size in ((24, 96), (96, 16)))
    a[0], b[:, 0] = 2**23, 2**23 - 1  # 96 products of nearly 2**46: the sum is close to 2**53
    exact = a.astype(object) @ b.astype(object)
    product = matmul(*(xp.asarray(each.astype(np.float64)) for each in (a, b)), xp=xp)
    wrong = sum(int(got) != want for got, want in zip(np.asarray(product).flat, exact.flat, strict=True))
    return f"{wrong} of {exact.size} integer products are not exact" if wrong else ""


def _rounding(library: str) -> str:
    """Ties go to the even integer."""
    import numpy as np

    xp = importlib.import_module(library)
    ties = [0.5, 1.5, 2.5, -0.5, -1.5, 8388606.5, 4194303.5]
    wanted = [0.0, 2.0, 2.0, -0.0, -2.0, 8388606.0, 4194304.0]
    got = np.asarray(xp.round(xp.asarray(ties, dtype=xp.float32))).tolist()
    return "" if got == wanted else f"{ties} are rounded to {got}"


def _subnormals(library: str) -> str:
    """The smallest numbers are kept, not taken for zero."""
    xp = importlib.import_module(library)
    for dtype, least in ((xp.float32, 2.0**-149), (xp.float64, 2.0**-1074)):
        number = xp.asarray([least], dtype=dtype)
        if float(number[0]) != least or float((number + number)[0]) != 2 * least:
            return f"{dtype} takes {least:g} for zero"
    return ""


def _stage() -> str:
    """A small stage's forward is finite, and the same twice."""
    first, again = _forward("interlock.kernels.stage"), _forward("interlock.kernels.stage")
    if not (abs(first) < 1e6).all():
        return "a forward is not finite"
    return "" if (first == again).all() else "a forward gives other values the second time"


def _stages_agree() -> str:
    import numpy as np

    found = [_forward(f"interlock.kernels.{name}") for name in ("stage", "stage_jax")]
    apart = float(np.max(np.abs(found[0] - found[1])))
    return "" if apart < 1e-3 else f"a forward differs by {apart:g}"


def _forward(module: str) -> Any:
    import numpy as np

    from interlock.kernels.state import StageShape

    shape = StageShape(width=32, heads=2, layers=1, hidden=64, mlp="relu2", first=False, last=False)
    dice = np.random.default_rng(1)
    weights = {t.name: (dice.standard_normal((t.rows, t.columns)) / 6).astype(np.float32) for t in shape.tensors()}
    stage = importlib.import_module(module).Stage(shape, context=16)
    stage.load(weights, np.eye(32, dtype=np.float32))
    return stage.evaluate(dice.standard_normal((2, 16, 32)).astype(np.float32)).output


# --- speed ---


def speeds(keystream_least: float, float32_least: float) -> Iterator[tuple[str, float | None, str, float, str]]:
    """What takes a run's time: name, value, unit, what it should be at least, and the path that is taken."""
    import hashlib

    import numpy as np

    from interlock.kernels import exact, mask

    size, key = 1 << 22, bytes(32)
    rate = size / _seconds(lambda: mask.keystream(key, size)) / 1e9
    yield "keystream", rate, "GB/s", keystream_least, "AES-256-CTR of cryptography"
    data = bytes(size)
    rate = size / _seconds(lambda: hashlib.sha256(data).digest()) / 1e9
    yield "SHA-256", rate, "GB/s", 0.1, "hashlib"
    n = 384
    dice = np.random.default_rng(1)
    whole = dice.integers(-1000, 1000, (n, n)).astype(np.float64)
    rate = n**3 / _seconds(lambda: exact.gram(whole)) / 1e12
    yield "float64 gram", rate, "TFLOP/s", 0.001, "numpy's syrk, exact, one thread"
    try:
        import torch
    except Exception as error:  # said under versions
        yield "torch", None, "", 0.0, type(error).__name__
        return
    a = torch.from_numpy(dice.standard_normal((n, n)).astype(np.float32))
    rate = 2 * n**3 / _seconds(lambda: a @ a) / 1e12
    capability = torch.backends.cpu.get_cpu_capability()
    yield "float32 product", rate, "TFLOP/s", float32_least, f"torch on cpu, {capability}"
    small = torch.from_numpy(dice.integers(-100, 100, (n, n)).astype(np.int8))
    try:
        rate = 2 * n**3 / _seconds(lambda: torch._int_mm(small, small)) / 1e12
        yield "int8 product", rate, "TOP/s", 0.0, "torch._int_mm on cpu; no run uses it yet"
    except (RuntimeError, AttributeError) as error:
        yield "int8 product", None, "", 0.0, f"torch._int_mm: {str(error).partition(chr(10))[0][:60]}"
    yield "devices", float(torch.cuda.device_count()), "CUDA", 0.0, _devices(torch)


def _devices(torch: Any) -> str:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names) or "nodes compute on the cpu"


def _seconds(call: Callable[[], object]) -> float:
    """Seconds of one call: the best of as many as there is time for."""
    call()
    best, end = float("inf"), time.perf_counter() + SPEED_S
    while (began := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - began)
    return best


# --- machine ---


def machine(threads: Mapping[str, str]) -> Machine:
    """Memory, processors and limits of this process."""
    told = _memory()
    bound = resource.getrlimit(resource.RLIMIT_AS)[0]
    return Machine(
        free_gib=told.get("MemAvailable"),
        address_space_gib=None if bound == resource.RLIM_INFINITY else bound / 2**30,
        swap_gib=told.get("SwapTotal"),
        core_dumps=not _core_dumps_off(),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        processors=os.cpu_count() or 1,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=threads,
    )


def _memory() -> dict[str, float]:
    """Fields of /proc/meminfo in GiB; none on other systems than Linux."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines if line.endswith(" kB")}


def _core_dumps_off() -> bool:
    """Switch them off here, as every process of a run does."""
    from . import machine as settings

    try:
        settings.forbid_core_dumps()
    except (ValueError, OSError):
        return False
    return resource.getrlimit(resource.RLIMIT_CORE)[0] == 0


def clocks() -> Clocks:
    """A short wait."""
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(WAIT_S)
    return Clocks(
        monotonic_s=time.monotonic() - monotonic,
        wall_s=time.time() - wall,
        resolution_s=time.get_clock_info("monotonic").resolution,
        year=time.gmtime().tm_year,
    )


def text() -> Text:
    """Encodings."""
    return Text(
        files=sys.getfilesystemencoding(), output=sys.stdout.encoding or "", locale=locale.getpreferredencoding(False)
    )


# --- files ---


def folder(where: Place) -> Folder:
    """The run's directory, or this one."""
    path = Path() if where.run is None else where.run.path
    return Folder(
        path=str(path.resolve()),
        free_gib=shutil.disk_usage(path).free / 2**30,
        writable=os.access(path, os.W_OK | os.X_OK),
    )


def keys(where: Place) -> Iterator[Key]:
    """Every key file of the run's directory."""
    if where.run is None:
        return
    for path in sorted((where.run.path / "keys").glob("*.key")):
        try:
            Identity.load(path)
        except VaultError as error:
            yield Key(path=str(path), refused=error.what, todo=error.todo)
        else:
            yield Key(path=str(path))


# --- network ---


def ports(where: Place, reached: Sequence[Peer]) -> Iterator[Port]:
    """Any port of this machine, and the run's if its coordinator should be here."""
    yield _port("127.0.0.1", 0, "loopback")
    if where.run is not None and where.url is not None and where.url.host in ("127.0.0.1", "localhost"):
        address = f"{where.url.host}:{where.url.port}"
        if any(peer.address == address and peer.how == "handshake" for peer in reached):
            yield Port(address=address, what="coordinator", ours=True)
        else:
            yield _port(where.url.host, where.url.port, "coordinator")


def _port(host: str, port: int, what: str) -> Port:
    with socket.socket() as tried:
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
            tried.listen()
        except OSError as error:
            return Port(address=f"{host}:{port}", what=what, refused=error.strerror or str(error))
        return Port(address=f"{host}:{tried.getsockname()[1]}", what=what)


def peers(where: Place) -> Iterator[Peer]:
    """The coordinator of the URL, and the relays in the run's journal; nobody of a run that is not running."""
    if where.url is None:
        return
    yield _coordinator(where.url)
    if where.run is not None and where.run.journal.is_file():
        for name, address in _relays(where.run):
            yield _connected(name, *address)


def _relays(run: RunDir) -> Iterator[tuple[str, tuple[str, int]]]:
    from ..journal import Joined
    from .store import read_rows

    try:
        rows = read_rows(run.journal)
    except InterlockError:
        return  # its own error comes up where the journal is used
    records = [row.body.join.record for row in rows if isinstance(row.body, Joined)]
    for record in records:
        found = re.fullmatch(r"tcp://([A-Za-z0-9._-]+):([0-9]{1,5})", record.address)
        if record.role == "relay" and found is not None:
            yield f"relay {record.operator}", (found[1], int(found[2]))


def _connected(name: str, host: str, port: int) -> Peer:
    """How long a connection takes."""
    address, began = f"{host}:{port}", time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S):
            return Peer(name=name, address=address, how="connected", seconds=time.monotonic() - began)
    except OSError as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else _reason(error)
        return Peer(name=name, address=address, how="no connection", why=why)


def _reason(error: OSError) -> str:
    known = error.errno is not None and error.errno in errno.errorcode
    return os.strerror(error.errno or 0) if known else str(error.strerror or error)


def _coordinator(url: JoinURL) -> Peer:
    """Connect, then let it prove its key: its door is open to keys that it does not know."""
    peer = _connected("coordinator", url.host, url.port)
    if peer.how != "connected":
        return peer
    took = asyncio.run(_handshake(url))
    if took is None:
        why = f"nobody proved the URL's key in {HANDSHAKE_S:g} s"
        return Peer(name=peer.name, address=peer.address, how="no handshake", why=why)
    return Peer(name=peer.name, address=peer.address, how="handshake", seconds=took)


async def _handshake(url: JoinURL) -> float | None:
    """Seconds until the connection is encrypted and its other end has proved its key; None if it never is."""
    import zmq
    import zmq.asyncio
    from zmq.utils import z85
    from zmq.utils.monitor import recv_monitor_message

    public, secret = zmq.curve_keypair()
    context = zmq.asyncio.Context()
    client = context.socket(zmq.DEALER)
    client.linger = 0
    client.curve_publickey, client.curve_secretkey, client.curve_serverkey = public, secret, z85.encode(url.curve)
    monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    began = time.monotonic()
    try:
        client.connect(url.address)
        await asyncio.wait_for(recv_monitor_message(monitor), HANDSHAKE_S)
    except TimeoutError:
        return None
    finally:
        client.disable_monitor()
        monitor.close(0)
        client.close(0)
        context.term()
    return time.monotonic() - began
