cdef class Watch:
    cdef public object _hub
    cdef public object timer
