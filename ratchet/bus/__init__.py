"""A message bus of requests and responses: the same calls within a process, over sockets and a broker.

send_request -> recv_request -> send_response -> recv_response

This module only names what the others have.
"""

from ratchet.bus import codecs
from ratchet.bus._broker_opening import broker_client, broker_server
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.handle import ServerTransaction
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.peer import PeerCertificate, PeerProcess
from ratchet.bus._core.public_class import set_module
from ratchet.bus._core.retry import Retry
from ratchet.bus._core.stats import Stats
from ratchet.bus._local import LocalBus, new_local
from ratchet.bus._opening import connect, listen, new_client, new_server
from ratchet.bus._processes.beside import processes
from ratchet.bus._processes.serving import serve_processes
from ratchet.bus._processes.supervisor import Supervisor
from ratchet.bus._socket.client import ClientBus
from ratchet.bus._socket.server import ServerBus
from ratchet.bus.codecs import Codec

__all__ = [
    "ClientBus",
    "ClientTransaction",
    "Codec",
    "Limits",
    "LocalBus",
    "PeerCertificate",
    "PeerProcess",
    "Retry",
    "ServerBus",
    "ServerTransaction",
    "Stats",
    "Supervisor",
    "broker_client",
    "broker_server",
    "codecs",
    "connect",
    "listen",
    "new_client",
    "new_local",
    "new_server",
    "processes",
    "serve_processes",
]

for _public in (
    ClientBus,
    ClientTransaction,
    Limits,
    LocalBus,
    PeerCertificate,
    PeerProcess,
    Retry,
    ServerBus,
    ServerTransaction,
    Stats,
    Supervisor,
    broker_client,
    broker_server,
    connect,
    listen,
    new_client,
    new_local,
    new_server,
    processes,
    serve_processes,
):
    set_module(_public, __name__)


def __dir__() -> list[str]:
    return __all__
