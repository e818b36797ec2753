from ratchet.bus._core.watch cimport Watch

cdef class Load(Watch):
    cdef public double time_needed
    cdef object _owner
    cdef object _refused
    cdef object _seen

    cpdef object learn(self, double seconds)
    cpdef object note_given_up(self, double begun, double now, double deadline)
    cpdef object refusal(self, double now, double half_time, double deadline, bint others_wait)
