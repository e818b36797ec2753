cimport cython

from ratchet._run_queue cimport RunQueue
from ratchet._sleep cimport Dispatcher, Wait as CompiledWait
from ratchet._wait cimport WaitQueue
from ratchet.bus._core cimport lines
from ratchet.bus._core.fair_queue cimport FairQueue, Flow, Queued
from ratchet.bus._core.linked cimport LinkedLine
from ratchet.bus._core.load cimport Load

cdef class Inbox(Dispatcher):
    cdef object _owner
    cdef Load _load
    cdef Py_ssize_t _maxsize
    cdef Py_ssize_t _max_queued
    cdef object _run_callback
    cdef RunQueue _run_queue
    cdef FairQueue _queue
    cdef LinkedLine _items
    cdef WaitQueue _receivers
    cdef WaitQueue _senders
    cdef object _wake_callback
    cdef bint _wake_scheduled
    cdef public bint closed
    cdef public bint overfull
    cdef public object on_low

    cpdef object put(self, Queued item)
    @cython.locals(first=Queued, queue=FairQueue)
    cpdef object first(self, object timeout, set idle=*)
    cpdef bint _has_had_its_turn(self, set idle) except -1
    cpdef object present(self)
    cpdef object drop(self, Queued item, bint claimed)
    @cython.locals(wait=CompiledWait)
    cdef CompiledWait next_wait(self)
    cpdef object _schedule_wake(self)
    cpdef bint _is_full(self) except -1
