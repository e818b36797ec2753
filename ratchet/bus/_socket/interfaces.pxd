cdef class Stream:
    cdef public object limits
    cdef public object peer
    cdef public object state
