from ratchet.bus._socket cimport heads, table, wire
from ratchet.bus._socket.slots cimport Table

cimport cython

cdef class ServerProtocol:
    cdef object _hello
    cdef object _peer
    cdef public Table open
    cdef public dict plain
    cdef public Py_ssize_t kept
    cdef public Py_ssize_t max_message
    cdef public Py_ssize_t max_parts
    cdef public long long last_id
    cdef public bint extended

    cpdef object receive(self, object message, object make_request)
    cpdef bint enter(self, long long id, bint one_way, object request) except -1
    cpdef object response(self, long long id, object parts)

cdef class ClientProtocol:
    cdef object _limits
    cdef object _peer
    cdef public bint plain
    cdef public object state
    cdef public object hello
    cdef public Table open
    cdef public object order
    cdef public long long max_in_flight
    cdef public object farewell
    cdef public bint turned_away
    cdef public bint narrow
    cdef public long long _last_id

    @cython.locals(id=cython.longlong)
    cpdef long long new_id(self) except -1
    cpdef object request(self, long long id, int flags, long arg, object content)
    cpdef object receive(self, object message)
