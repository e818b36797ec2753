from ratchet.bus._socket.protocol cimport ClientProtocol
from ratchet.bus._socket.stream cimport MessageStream

cdef class Casts:
    cdef MessageStream _stream
    cdef ClientProtocol _protocol
    cdef object _unsent
    cdef object _last
    cdef public Py_ssize_t count
    cdef public double last_sign
    cdef object _seen_undelivered
