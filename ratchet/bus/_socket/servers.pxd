from ratchet.bus._socket.connections cimport Connections

cimport cython

@cython.final
cdef class Servers:
    cdef object __weakref__
    cdef object _counters
    cdef object _decode
    cdef object _limits
    cdef Py_ssize_t _lost_casts
    cdef bint _plain
    cdef list _ready
    cdef Py_ssize_t _turn
    cdef public object asking
    cdef public list leaving
    cdef public object life
    cdef public object name
    cdef public Connections only
    cdef public list places
    cdef public object retrier
    cdef public object waiters

    @cython.locals(best=Connections, place=Connections, count=Py_ssize_t, turn=Py_ssize_t, fewest=double, load=double)
    cpdef Connections choose(self)
