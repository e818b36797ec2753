cdef class Transport:
    cdef public object _raw
    cdef public object _socket
    cdef public bint _is_internet
    cdef public bint ready
    cdef public object receive
    cdef public object send
