cimport cython

from ratchet.bus._core cimport lines
from ratchet.bus._core.linked cimport Linked, LinkedLine

cdef class Flow

cdef class Queued(Linked):
    cdef public long run
    cdef public Flow flow
    cdef public object deadline
    cdef public double half_time

cdef class Flow(Linked):
    cdef public bint has_backlog
    cdef public LinkedLine without_deadline
    cdef public LinkedLine with_deadline
    cdef public long run
    cdef public bint last_has_deadline
    cdef public double late_since
    cdef public bint next_without_deadline

    @cython.locals(first=Queued)
    cpdef object next_beside(self, Queued oldest, double time_needed)
    cpdef object _next_of_overloaded(self, Queued oldest, double end)

cdef class FairQueue:
    cdef public LinkedLine items
    cdef public Flow only_flow
    cdef public bint only_has_deadline
    cdef LinkedLine _fresh
    cdef LinkedLine _backlogged
    cdef long _fresh_turns

    cpdef object put(self, Queued item)
    cpdef object _spread(self)
    @cython.locals(flow=Flow)
    cpdef object _put_in_flow(self, Queued item)
    cpdef object note_backlog(self, Flow flow)
    cpdef object _move_to_backlogged(self, Flow flow)
    @cython.locals(
        first=Queued, flow=Flow, oldest=Queued, fresh=LinkedLine, backlogged=LinkedLine, turns=LinkedLine
    )
    cpdef object next(self, double time_needed)
    @cython.locals(flow=Flow, beside=LinkedLine, backlogged=LinkedLine)
    cpdef object take(self, Queued item)
    @cython.locals(flow=Flow)
    cpdef object remove(self, Queued item)
