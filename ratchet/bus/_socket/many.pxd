cimport cython

from ratchet cimport _native
from ratchet.bus._core.many cimport ManyRequests
from ratchet.bus._core.outgoing cimport OutgoingRequest
from ratchet.bus._socket.client_connection cimport ClientConnection
from ratchet.bus._socket.protocol cimport ClientProtocol
from ratchet.bus._socket.stream cimport MessageStream

@cython.locals(protocol=ClientProtocol, stream=MessageStream, transaction=OutgoingRequest)
cpdef object send_some(ClientConnection connection, object owner, ManyRequests many, long arg)
