cdef class Counters:
    cdef public long answered
    cdef public long failed
    cdef public long cancelled
    cdef public long dropped_late
    cdef public long broken
    cdef public long refused_overloaded
    cdef public long refused_draining
    cdef public long refused_connections
