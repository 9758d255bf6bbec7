"""Callback that ends the processes of all ranks when one rank is lost."""

import os
import secrets
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection, wait

from lightning.pytorch import Callback, Trainer

from dqn_lightning import distributed
from dqn_lightning.module import DQNModule

_HEARTBEAT_S, _CONNECT_TIMEOUT_S = 1.0, 10.0
_MAX_MESSAGE_BYTES = 100
_HEARTBEAT, _DONE, _LOST = b"heartbeat", b"done", b"lost"


class RankWatch(Callback):
    """Callback that ends this rank when another rank is lost, and reports the lost rank.

    A rank is lost if its process has ended or no longer responds. Rank 0 is connected to each of
    the other ranks, and a connection closes as soon as the process at either end has ended.
    Heartbeats are sent over each connection, so frozen processes and unreachable machines are also
    detected. A rank that is blocked in a collective operation cannot raise an error, so its process
    is terminated.

    A short timeout for the process group cannot replace this callback, because it does not reveal
    which rank is lost. It also aborts a run in which one rank legitimately takes longer, for
    example to evaluate, save a checkpoint or record a video. Heartbeats continue during such work,
    because a separate thread sends them. They also continue if only the main thread hangs; in this
    case, the timeout for the process group (30 minutes by default) ends the run.

    Args:
        timeout_s: Seconds without a heartbeat after which a rank is considered lost.
        grace_s: Seconds between the detection of a lost rank and the termination of this rank's
            process, unless training ends earlier.

    Attributes:
        lost: Error message that names the lost rank; None if no rank is lost.
    """

    def __init__(self, timeout_s: float = 30.0, grace_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self.grace_s = grace_s
        self._thread: threading.Thread | None = None
        self._reset()

    def _reset(self) -> None:
        self.lost: str | None = None
        self._loss_noticed = threading.Event()
        self._over = threading.Event()
        self._send_lock = threading.Lock()
        self._peers: dict[int, Connection] = {}

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Connect every rank to rank 0, and start the thread that watches the connections."""
        if stage != "fit":
            return
        self._stop_watching()  # the thread of a previous fit would read the new connections
        self._reset()
        if distributed.world_size() == 1:
            return
        self._names = distributed.all_gather(f"{socket.gethostname()}, process {os.getpid()}")
        self._peers = _connect()
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    def teardown(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Notify the connected ranks that this rank has finished, and stop watching."""
        self._send(_DONE)
        self._over.set()

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Stop watching; if a collective failed, first wait 2 s for a report of a lost rank."""
        if self._peers and type(exception).__name__ in ("RuntimeError", "DistBackendError"):
            self._loss_noticed.wait(2 * _HEARTBEAT_S)
        self._over.set()

    def _stop_watching(self) -> None:
        """Stop the watching thread, and wait until it has ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        last_heard = dict.fromkeys(self._peers, time.monotonic())
        last_sent = 0.0
        while self._peers and not self._over.is_set():
            ready = wait(list(self._peers.values()), timeout=_HEARTBEAT_S)
            for rank in [rank for rank, peer in self._peers.items() if peer in ready]:
                message = _receive(self._peers[rank])
                last_heard[rank] = time.monotonic()
                if message == _DONE:
                    del self._peers[rank]
                elif message is None:
                    self._report_lost(rank, "has ended")
                elif message.startswith(_LOST):
                    self._report_lost(int(message.removeprefix(_LOST)), "has ended or is frozen")
            now = time.monotonic()
            for rank in self._peers:
                if now - last_heard[rank] > self.timeout_s:
                    self._report_lost(rank, f"has not responded for {self.timeout_s:.0f} s")
            if now - last_sent >= _HEARTBEAT_S:
                self._send(_HEARTBEAT)
                last_sent = now

    def _report_lost(self, rank: int, reason: str) -> None:
        """Notify the connected ranks that a rank is lost; after `grace_s`, end this process.

        The process is not ended if training ends earlier, normally or with an exception.

        Args:
            rank: Rank that is lost.
            reason: Predicate for the error message, such as "has ended".
        """
        if self._over.is_set():
            return
        self.lost = (
            f"rank {rank} ({self._names[rank]}) {reason}; the other ranks cannot continue without "
            "it. Resume from the last checkpoint with --ckpt_path last"
        )
        self._send(_LOST + str(rank).encode())
        self._loss_noticed.set()
        if not self._over.wait(self.grace_s):
            print(f"error: {self.lost}", file=sys.stderr, flush=True)
            os._exit(1)

    def _send(self, message: bytes) -> None:
        """Send a message to all connected ranks."""
        with self._send_lock:
            for peer in list(self._peers.values()):
                try:
                    peer.send_bytes(message)
                except OSError:  # closed; `_watch` reports it
                    continue


def _connect() -> dict[int, Connection]:
    """Connect rank 0 to all other ranks; return this rank's connections, keyed by connected rank.

    Ranks that cannot connect within a time limit, for example because of a firewall, are omitted.
    """
    is_first = distributed.rank() == 0
    server = socket.create_server(("", 0), backlog=distributed.world_size()) if is_first else None
    offer = None if server is None else (server.getsockname()[1], secrets.token_hex(16))
    port, key = distributed.all_gather(offer)[0]
    if server is not None:
        with server:
            return _accept_ranks(server, key)
    try:
        address = (os.environ["MASTER_ADDR"], port)
        connection = _as_connection(socket.create_connection(address, _CONNECT_TIMEOUT_S))
        connection.send_bytes(f"{key} {distributed.rank()}".encode())
    except OSError as error:
        print(f"rank {distributed.rank()} cannot be watched: {error}", file=sys.stderr)
        return {}
    return {0: connection}


def _accept_ranks(server: socket.socket, key: str) -> dict[int, Connection]:
    """Accept connections from all other ranks, and return them keyed by rank.

    Connections whose first message does not start with `key` are ignored. If no connection arrives
    for 10 s, the missing ranks are omitted.
    """
    server.settimeout(_CONNECT_TIMEOUT_S)
    peers: dict[int, Connection] = {}
    while len(peers) < distributed.world_size() - 1:
        try:
            connection = _as_connection(server.accept()[0])
        except TimeoutError:
            break
        their_key, _, rank = (_receive(connection) or b"").decode(errors="replace").partition(" ")
        if their_key == key:
            peers[int(rank)] = connection
    return peers


def _as_connection(connected: socket.socket) -> Connection:
    connected.settimeout(None)
    return Connection(connected.detach())


def _receive(connection: Connection) -> bytes | None:
    """Return the next message, or None if the connection is closed."""
    try:
        return connection.recv_bytes(_MAX_MESSAGE_BYTES)
    except (EOFError, OSError):
        return None
