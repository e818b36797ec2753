cdef class BusFields:
    cdef object __weakref__
    cdef public object _hub
    cdef public object _intake
    cdef public object _sender
