cimport cython

from ratchet cimport _native
from ratchet._sleep cimport Dispatcher, Wait as CompiledWait

cdef long _STRIDE
cdef long _MOST_SWITCHES

cdef class RunQueue(Dispatcher):
    cdef object __weakref__
    cdef public double _ends
    cdef public object _first
    cdef CompiledWait _first_wait
    cdef public object _rest
    cdef public object _hub
    cdef public long _looks_left
    cdef public object _loop
    cdef public object _run_callback
    cdef public object _timer
    cdef long _switches_left
    cdef public long long _turn
    cdef public Dispatcher inbox
    cdef public list woken

    cpdef object begin_turn(self)
    @cython.locals(left=long, wait=CompiledWait)
    cdef CompiledWait next_wait(self)
    cpdef object wake(self, object wait)
    @cython.locals(now=cython.double, turn=cython.longlong)
    cpdef bint slice_is_over(self) except -1
    cpdef object _put_off(self, list woken)

cpdef RunQueue run_queue_of(object hub)
