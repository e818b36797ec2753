from ratchet.bus._core.watch cimport Watch

cdef class StallWatch(Watch):
    cdef double _timeout
    cdef object _expects_move
    cdef object _on_stall
    cdef double _last_move
    cdef long _looks

    cpdef object begin(self)
    cpdef object move(self)
