from ratchet cimport _native

cdef class RunQueue:
    cdef object __weakref__
    cdef public object _ends
    cdef public object _first
    cdef public object _hub
    cdef public long _looks_left
    cdef public object _loop
    cdef public object _run_callback
    cdef public object _timer
    cdef public object _turn
    cdef public list woken

    cpdef object wake(self, object wait)
    cpdef bint slice_is_over(self) except -1
    cpdef object _put_off(self, list woken)

cpdef RunQueue run_queue_of(object hub)
