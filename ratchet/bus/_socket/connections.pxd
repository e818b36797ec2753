from ratchet.bus._socket.client_connection cimport ClientConnection

cimport cython

@cython.final
cdef class Connections:
    cdef object __weakref__
    cdef object _counters
    cdef object _decode
    cdef object _limits
    cdef bint _plain
    cdef double _failures
    cdef double _failures_as_of
    cdef bint _has_others
    cdef double _seconds
    cdef double _seconds_as_of
    cdef public dict all
    cdef public ClientConnection current
    cdef public object dialer
    cdef public object failure
    cdef public object life
    cdef public object lost_casts
    cdef public object retrier
    cdef public object server
    cdef public object waiters
