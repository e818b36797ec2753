# In C because nothing else can have the system write to `bytes`: what is received otherwise is
# copied once more to become the part.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcpy

from ratchet.bus._socket.descriptor cimport ratchet_socket

cdef extern from "<sys/socket.h>":
    ssize_t c_receive "recv"(int, void *, size_t, int) nogil

cdef extern from *:
    """
    #include <sys/mman.h>

    /* The latest parts, and how large their memory is.  One that nobody else has any more is
       written to again: what comes fresh from the system has to be cleared by it, page by page,
       which takes about as long as to receive the part.  Two of them, because whoever asks in a
       loop still has the last part when the next one comes. */
    enum { RATCHET_KEPT = 2, RATCHET_MOST_KEPT = 4 * 1024 * 1024, RATCHET_HUGE_PAGE = 2 * 1024 * 1024 };
    static struct { PyObject *part; Py_ssize_t room; } ratchet_kept[RATCHET_KEPT];
    static int ratchet_latest_kept;

    static void ratchet_set_size(PyObject *part, Py_ssize_t size) {
        Py_SET_SIZE(part, size);
        PyBytes_AS_STRING(part)[size] = 0;
        /* Somebody may have asked for the hash of what was there. */
        ((PyBytesObject *)part)->ob_shash = -1;
    }

    static PyObject *ratchet_new(Py_ssize_t size) {
        PyObject *memory = PyBytes_FromStringAndSize(NULL, size);
    #ifdef MADV_HUGEPAGE
        if (memory != NULL && size >= RATCHET_HUGE_PAGE) {
            /* As in `pages`. */
            size_t start = (size_t)memory & -(size_t)4096;
            madvise((void *)start, (size_t)PyBytes_AS_STRING(memory) + size - start, MADV_HUGEPAGE);
        }
    #endif
        return memory;
    }

    static PyObject *ratchet_take(Py_ssize_t length, Py_ssize_t at_once) {
        for (int i = 0; i < RATCHET_KEPT; i++) {
            PyObject *part = ratchet_kept[i].part;
            Py_ssize_t room = ratchet_kept[i].room;
            if (part != NULL && Py_REFCNT(part) == 1 && length <= room && length >= room / 2) {
                ratchet_kept[i].part = NULL;
                ratchet_set_size(part, room);
                return part;
            }
        }
        return ratchet_new(length < at_once ? length : at_once);
    }

    static void ratchet_keep(PyObject *part, Py_ssize_t room) {
        /* In place of the older one, unless its memory was taken. */
        int other = (ratchet_latest_kept + 1) % RATCHET_KEPT;
        int place = ratchet_kept[ratchet_latest_kept].part == NULL ? ratchet_latest_kept : other;
        PyObject *before = ratchet_kept[place].part;
        Py_INCREF(part);
        ratchet_kept[place].part = part;
        ratchet_kept[place].room = room;
        ratchet_latest_kept = place;
        Py_XDECREF(before);
    }
    """
    bytes ratchet_take(Py_ssize_t length, Py_ssize_t at_once)
    bytes ratchet_new(Py_ssize_t size)
    void ratchet_set_size(bytes part, Py_ssize_t size)
    void ratchet_keep(bytes part, Py_ssize_t room)
    Py_ssize_t RATCHET_MOST_KEPT

cdef inline bytes take(Py_ssize_t length, Py_ssize_t at_once, bytes begun):
    cdef bytes memory = ratchet_take(length, at_once)
    memcpy(PyBytes_AS_STRING(memory), PyBytes_AS_STRING(begun), PyBytes_GET_SIZE(begun))
    return memory

cdef inline bytes grown(bytes memory, Py_ssize_t room):
    cdef bytes larger = ratchet_new(room)
    memcpy(PyBytes_AS_STRING(larger), PyBytes_AS_STRING(memory), PyBytes_GET_SIZE(memory))
    return larger

cdef inline Py_ssize_t receive(object socket, bytes memory, Py_ssize_t begin, Py_ssize_t most) except? -2:
    cdef int descriptor = (<ratchet_socket *>socket).sock_fd
    cdef char *where = PyBytes_AS_STRING(memory) + begin
    cdef Py_ssize_t count
    # It may take a while, and nobody else has the memory.
    with nogil:
        count = c_receive(descriptor, where, most, 0)
    if count >= 0:
        return count
    if errno == EAGAIN or errno == EINTR:
        return -1
    PyErr_SetFromErrno(OSError)

cdef inline bytes finish(bytes memory, Py_ssize_t length):
    cdef Py_ssize_t room = PyBytes_GET_SIZE(memory)
    if length < room:
        ratchet_set_size(memory, length)
    if room <= RATCHET_MOST_KEPT:
        ratchet_keep(memory, room)
    return memory
