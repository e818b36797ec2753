# In C because a method of the socket makes objects for itself, its argument and its result,
# releases the interpreter's lock for a call that never blocks, allocates memory for all that
# may come, and raises an exception where nothing has.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "<sys/socket.h>":
    ssize_t c_recv "recv"(int, void *, size_t, int)
    ssize_t c_send "send"(int, const void *, size_t, int)

cdef extern from *:
    """
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* there Python has SIGPIPE ignored, as everywhere */
    #endif
    /* One for all connections: nothing runs, and nobody else has the interpreter's lock, between
       a call that fills it and the copy of what has come. */
    static char ratchet_read_buffer[64 * 1024];
    """
    int MSG_NOSIGNAL
    char ratchet_read_buffer[64 * 1024]

cdef extern from *:
    """
    /* The beginning of an object of `_socket.socket`.  The number is read from there for each call:
       it is below 0 when somebody has closed the socket, and then may be another file's. */
    typedef struct {
        PyObject_HEAD
        int sock_fd;
    } ratchet_socket;
    """
    ctypedef struct ratchet_socket:
        int sock_fd

cdef enum:
    MOST = 64 * 1024

cdef inline object direct(object transport):
    import _socket
    from ratchet.bus._transport.transport import Transport
    # Neither TLS, nor a socket of somebody's own.
    if type(transport) is not Transport:
        return None
    kind = type(transport._raw)
    if getattr(kind, "recv", None) is _socket.socket.recv and getattr(kind, "send", None) is _socket.socket.send:
        return transport._raw
    return None

cdef inline bytes receive(object socket, Py_ssize_t size):
    cdef Py_ssize_t count = c_recv((<ratchet_socket *>socket).sock_fd, ratchet_read_buffer, min(size, MOST), 0)
    if count >= 0:
        return PyBytes_FromStringAndSize(ratchet_read_buffer, count)
    if errno == EAGAIN or errno == EINTR:
        return None
    PyErr_SetFromErrno(OSError)

# It raises nothing, because to be ready for that takes 100 instructions.
cdef inline Py_ssize_t send(object socket, bytes data):
    cdef int descriptor = (<ratchet_socket *>socket).sock_fd
    cdef Py_ssize_t count = c_send(descriptor, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
    if count >= 0:
        return count
    return 0 if errno == EAGAIN or errno == EINTR else -1

cdef inline object send_error():
    try:
        PyErr_SetFromErrno(OSError)
    except OSError as error:
        return error
