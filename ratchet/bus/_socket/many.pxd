cimport cython

from ratchet cimport _native
from ratchet.bus._core.many cimport ManyRequests
from ratchet.bus._core.outgoing cimport OutgoingRequest
from ratchet.bus._socket cimport heads
from ratchet.bus._socket.client_connection cimport ClientConnection
from ratchet.bus._socket.output cimport Output
from ratchet.bus._socket.protocol cimport ClientProtocol
from ratchet.bus._socket.stream cimport MessageStream

@cython.locals(
    begin=cython.Py_ssize_t, end=cython.Py_ssize_t, index=cython.Py_ssize_t, size=cython.Py_ssize_t,
    high_water=cython.Py_ssize_t, flags=cython.int, id=cython.longlong,
    output=Output, protocol=ClientProtocol, stream=MessageStream, transaction=OutgoingRequest,
)
cpdef object send_some(ClientConnection connection, object owner, ManyRequests many, long arg, Py_ssize_t most)
