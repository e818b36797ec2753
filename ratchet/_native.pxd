from cpython.contextvars cimport PyContext_Copy, get_value
from cpython.object cimport Py_TPFLAGS_HEAPTYPE, PyObject
from cpython.ref cimport Py_INCREF

# The last two are only passed on: whoever imports this module calls them directly.
from ratchet._sleep cimport Wait, run_line, wait_of, current_thread, hub_here

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char* where) except -1
    void Py_LeaveRecursiveCall()
    Py_ssize_t Py_REFCNT(object thing)
    ctypedef struct PyTypeObject:
        const char* tp_name
        object (*tp_new)(PyTypeObject*, PyObject*, PyObject*)
    bint PyType_HasFeature(PyTypeObject*, unsigned long)

# gevent's Waiter says nothing of what it is for, and each call of it is one by name.
cdef inline Wait new_wait():
    cdef Wait wait = Wait.__new__(Wait)
    wait.begin()
    return wait

cdef inline object wait_on(Wait wait, object call, object subject):
    return wait.sleep(call, subject)

# Each thread that goes to sleep again switches straight to the next one.
cdef inline object run(list waits):
    return run_line(waits)

# A compiled function has no frame to read that from.
cdef inline object sleep_of(object thread):
    cdef Wait wait = wait_of(thread)
    return None if wait is None else (wait.call, wait.subject)

# A call of `__new__` by name takes four times as long.
cdef inline object new(type kind):
    cdef tuple arguments = ()
    return (<PyTypeObject*>kind).tp_new(<PyTypeObject*>kind, <PyObject*>arguments, NULL)

# As a method it is looked up by name, which takes five times as long.
cdef inline object value_of(object variable):
    return get_value(variable)

# As above.
cdef inline object copy_of(object context):
    return PyContext_Copy(context)

# Only a field is read.
cdef inline Py_ssize_t references(object thing):
    return Py_REFCNT(thing)

# A function of C takes no level, and a call of the loop takes this one.
cdef inline bint check_stack() except -1:
    Py_EnterRecursiveCall("")
    Py_LeaveRecursiveCall()
    return True

# A class in C has it in its name, which has to last as long.
cdef inline object set_module(object thing, str module):
    cdef bytes name
    if isinstance(thing, type) and not PyType_HasFeature(<PyTypeObject*>thing, Py_TPFLAGS_HEAPTYPE):
        name = f"{module}.{thing.__name__}".encode()
        Py_INCREF(name)
        (<PyTypeObject*>thing).tp_name = name
    else:
        thing.__module__ = module
