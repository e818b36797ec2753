from ratchet.bus._socket cimport heads

cimport cython

cdef list _spare

@cython.final
cdef class Outbox:
    cdef public Py_ssize_t written
    cdef public Py_ssize_t sent
    cdef public Py_ssize_t size
    cdef bytearray _batch
    cdef Py_ssize_t _batch_last
    cdef Py_ssize_t _batch_size
    cdef list _frames
    cdef bint _begun
    cdef Py_ssize_t _chunk_frames
    cdef Py_ssize_t _chunk_size

    @cython.locals(size=cython.Py_ssize_t, end=cython.Py_ssize_t)
    cpdef bint add_short(
        self, Py_ssize_t number, int kind, int flags, long long id, long long arg, object body
    ) except -1
    @cython.locals(batch=bytes, frames=list, start=cython.Py_ssize_t, stop=cython.Py_ssize_t)
    cpdef object _split_batch(self)
    cpdef object _end_batch(self)
    @cython.locals(size=cython.Py_ssize_t)
    cpdef object add(self, Py_ssize_t number, object frame)
    cpdef object add_begun(self, Py_ssize_t number, object rest)
    @cython.locals(frames=list, entry=tuple)
    cpdef list chunk(self)
    cpdef object _end_frames(self, Py_ssize_t count)
    cpdef object advance(self, Py_ssize_t count)
    cpdef bint take_back(self, Py_ssize_t number) except -1
