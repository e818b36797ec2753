cdef class Numbered:
    cdef public long long id
