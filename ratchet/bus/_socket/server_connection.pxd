from ratchet.bus._core.incoming cimport IncomingRequest, Route
from ratchet.bus._socket cimport heads, table
from ratchet.bus._socket.admission cimport Admission
from ratchet.bus._socket.budget cimport Budget, Share
from ratchet.bus._socket.gate cimport Gate
from ratchet.bus._socket.protocol cimport ServerProtocol
from ratchet.bus._socket.slots cimport Table
from ratchet.bus._socket.stream cimport MessageStream

cimport cython

cdef class ServerConnection(Route):
    cdef public Admission admission
    cdef public Budget budget
    cdef public Gate gate
    cdef public ServerProtocol protocol
    cdef public Share share
    cdef public MessageStream stream

    @cython.locals(open_requests=Table, stream=MessageStream)
    cpdef bint _answer(self, IncomingRequest request, object frame, object body) except -1
    @cython.locals(size=cython.Py_ssize_t)
    cpdef object _finish(self, IncomingRequest request)
    cpdef bint is_writable(self, IncomingRequest request) except -1
    cpdef object message_received(self, object message)
    @cython.locals(request=IncomingRequest, size=cython.Py_ssize_t)
    cpdef object short_received(self, int kind, int flags, long long id, long arg, bytes body)
    cpdef object _admit(self, IncomingRequest request, Py_ssize_t size)
    @cython.locals(request=IncomingRequest)
    cpdef IncomingRequest _new_request(self, object message, bint one_way, long left, long long id, object metadata)
