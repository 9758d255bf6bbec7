"""Ends a rank when another one is gone, and says which."""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from lightning.pytorch import Callback, Trainer

from dqn_lightning import ranks
from dqn_lightning.module import DQNModule

_PULSE_S, _CONNECT_S = 1.0, 10.0
_LONGEST = 100  # bytes of a message
_PULSE, _DONE, _LOST = b"pulse", b"done", b"lost"


class RankWatch(Callback):
    """Notices that a rank is gone, and ends the others with its name.

    A rank that waits for one that is gone would wait for half an hour, or fail with a message about
    sockets. So every rank keeps a connection to rank 0, which closes when a process ends, whatever
    the reason, and which carries a pulse in case a machine goes silent. A rank that waits inside
    the backend, where nothing can be raised, is ended from outside.

    Args:
        silent_s: Seconds without a pulse after which a rank counts as gone.
        grace_s: Seconds that this rank then has to end by itself.

    Attributes:
        lost: What was noticed, in words, or None.
    """

    def __init__(self, silent_s: float = 30.0, grace_s: float = 10.0) -> None:
        self.silent_s = silent_s
        self.grace_s = grace_s
        self.lost: str | None = None
        self._noticed = threading.Event()
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._peers: dict[int, Connection] = {}

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Connect all ranks with rank 0, and start to watch."""
        if ranks.count() == 1 or stage != "fit":
            return
        self.lost = None
        self._noticed.clear()
        self._over.clear()
        self._names = ranks.gather(f"{socket.gethostname()}, process {os.getpid()}")
        self._peers = _connect()
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Say goodbye, and watch no more."""
        self._send(_DONE)
        self._over.set()

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """See whether the reason is that another rank is gone."""
        if self._peers and type(exception).__name__ in ("RuntimeError", "DistBackendError"):
            self._noticed.wait(2 * _PULSE_S)  # it may be known in a moment
        self._over.set()

    def _watch(self) -> None:
        heard = dict.fromkeys(self._peers, time.monotonic())
        sent = 0.0
        while self._peers and not self._over.is_set():
            ready = wait(list(self._peers.values()), timeout=_PULSE_S)
            for rank in [rank for rank, peer in self._peers.items() if peer in ready]:
                message = _receive(self._peers[rank])
                heard[rank] = time.monotonic()
                if message == _DONE:
                    del self._peers[rank]
                elif message is None:
                    self._lose(rank, "has ended")
                elif message.startswith(_LOST):
                    self._lose(int(message.removeprefix(_LOST)), "has ended or is silent")
            now = time.monotonic()
            for rank in self._peers:
                if now - heard[rank] > self.silent_s:
                    self._lose(rank, f"has not been heard of for {self.silent_s:.0f} s")
            if now - sent >= _PULSE_S:
                self._send(_PULSE)
                sent = now

    def _lose(self, rank: int, what: str) -> None:
        """Tell the others, let the main thread find out by itself, or end it."""
        if self._over.is_set():
            return
        self.lost = (
            f"rank {rank} ({self._names[rank]}) {what}, and no rank can go on without it; "
            "--ckpt_path last goes on from the last checkpoint"
        )
        self._send(_LOST + str(rank).encode())
        self._noticed.set()
        if not self._over.wait(self.grace_s):
            print(f"error: {self.lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _send(self, message: bytes) -> None:
        with self._sending:
            for peer in list(self._peers.values()):
                try:
                    peer.send_bytes(message)
                except OSError:  # it is gone, which the next look at it will tell
                    continue


def _connect() -> dict[int, Connection]:
    """Connections of rank 0 to all others, of the others to rank 0; none where they fail."""
    server = socket.create_server(("", 0), backlog=ranks.count()) if ranks.own() == 0 else None
    offer = None if server is None else (server.getsockname()[1], secrets.token_hex(16))
    port, key = ranks.gather(offer)[0]
    greeting = f"{key} {ranks.own()}".encode()
    to_first: dict[int, Connection] = {}
    if server is None:
        try:
            address = (os.environ["MASTER_ADDR"], port)
            to_first[0] = _connection(socket.create_connection(address, _CONNECT_S))
            to_first[0].send_bytes(greeting)
        except OSError as error:
            print(f"ranks cannot watch each other ({error})", file=sys.stderr)
    expected = sum(ranks.gather(len(to_first)))
    if server is None:
        return to_first
    with server:
        return dict(_greeted(server, key, expected))


def _greeted(server: socket.socket, key: str, number: int) -> Iterator[tuple[int, Connection]]:
    """So many ranks that know the key, and their connections."""
    while number > 0:
        connection = _connection(server.accept()[0])
        theirs, _, rank = (_receive(connection) or b"").decode(errors="replace").partition(" ")
        if theirs == key:
            number -= 1
            yield int(rank), connection


def _connection(connected: socket.socket) -> Connection:
    connected.settimeout(None)
    return Connection(connected.detach())


def _receive(connection: Connection) -> bytes | None:
    """The next message, or None if the other end is closed."""
    try:
        return connection.recv_bytes(_LONGEST)
    except (EOFError, OSError):
        return None
