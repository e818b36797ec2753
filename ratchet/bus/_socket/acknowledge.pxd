from ratchet.bus._core.watch cimport Watch

cdef class AcknowledgeWatch(Watch):
    cdef object _on_gone
    cdef object _transport

    cpdef object begin(self)
