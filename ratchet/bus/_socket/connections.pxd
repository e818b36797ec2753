from ratchet.bus._socket.client_connection cimport ClientConnection

cimport cython

@cython.final
cdef class Connections:
    cdef object __weakref__
    cdef object _counters
    cdef object _decode
    cdef object _limits
    cdef bint _plain
    cdef object _run_callback
    cdef public dict all
    cdef public object awaiting_hello
    cdef public ClientConnection current
    cdef public object dialer
    cdef public object failure
    cdef public object life
    cdef public object lost_casts
    cdef public object senders
    cdef public object server
