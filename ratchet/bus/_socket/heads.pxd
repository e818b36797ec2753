# In C because `struct` takes some 1,400 of the 60,000 instructions of an exchange for this,
# and makes an int of every field.
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #define RATCHET_MAX_ID 0xFFFFFFFFLL
    static CYTHON_INLINE uint32_t ratchet_read32(const unsigned char *from) {
        return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
    }
    static CYTHON_INLINE void ratchet_write32(unsigned char *to, uint32_t value) {
        to[0] = value >> 24; to[1] = value >> 16; to[2] = value >> 8; to[3] = value;
    }
    static CYTHON_INLINE void ratchet_write(
        unsigned char *to, unsigned char kind, unsigned char flags, uint32_t id, uint32_t arg,
        const char *body, uint32_t length
    ) {
        to[0] = 0x80; to[1] = 1; to[2] = kind; to[3] = flags;
        ratchet_write32(to + 4, id); ratchet_write32(to + 8, arg); ratchet_write32(to + 12, length);
        memcpy(to + 16, body, length);
    }
    """
    const long long MAX_ID "RATCHET_MAX_ID"  # too large for an enum
    uint32_t ratchet_read32(const unsigned char *from_)
    void ratchet_write(
        unsigned char *to, unsigned char kind, unsigned char flags, uint32_t id, uint32_t arg,
        const char *body, uint32_t length
    )

cdef enum:
    SIZE = 16
    PLAIN = -1
    PLAIN_ID = -1
    REQUEST = 0
    RESPONSE = 1
    ONE_WAY = 0b0001
    METADATA = 0b0010
    CRITICAL_UNKNOWN_FLAGS = 0b1100
    FLAGS = 0xFF
    WORTH_NO_COPY = 64 * 1024
    ONE_PART = 0x8001

cdef inline bytes join(unsigned char kind, unsigned char flags, uint32_t id, uint32_t arg, object body):
    # A class derived from bytes will do, which Cython's `bytes` would refuse.
    if not PyBytes_Check(body):
        raise TypeError(body)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body)
    cdef bytes whole = PyBytes_FromStringAndSize(NULL, SIZE + length)
    ratchet_write(
        <unsigned char *>PyBytes_AS_STRING(whole), kind, flags, id, arg, PyBytes_AS_STRING(body), <uint32_t>length
    )
    return whole

cdef inline Py_ssize_t append(
    bytearray buffer, Py_ssize_t size, unsigned char kind, unsigned char flags, uint32_t id, uint32_t arg, object body
) except -1:
    if not PyBytes_Check(body):
        raise TypeError(body)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t end = size + SIZE + length
    if end > PyByteArray_GET_SIZE(buffer):
        PyByteArray_Resize(buffer, 2 * end)
    ratchet_write(
        <unsigned char *>PyByteArray_AS_STRING(buffer) + size, kind, flags, id, arg, PyBytes_AS_STRING(body),
        <uint32_t>length
    )
    return end

# No int: a sum of shifted bytes is not to become negative.
ctypedef long long number

cdef inline (number, number, number, number, number, number) split(bytes data, Py_ssize_t position):
    # As in the `.py`, the caller has seen that so much is there.
    cdef const unsigned char *head = <const unsigned char *>PyBytes_AS_STRING(data) + position
    return (
        head[0] << 8 | head[1], head[2], head[3],
        ratchet_read32(head + 4), ratchet_read32(head + 8), ratchet_read32(head + 12),
    )

cdef inline bytes beginning(bytearray buffer, Py_ssize_t size):
    return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), size)

cdef inline bytes part(bytes data, Py_ssize_t start, Py_ssize_t stop):
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, stop - start)
