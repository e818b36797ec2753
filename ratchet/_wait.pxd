from ratchet cimport _native

cpdef object suspend(object wait, object call, object subject=*, object timeout=*)

cdef class WaitQueue:
    cdef public object waits

    cpdef object wait(self, object call, object subject, object timeout=*, set group=*)
    cpdef object wake_next(self)
