from ratchet.bus._core.linked cimport LinkedLine

# Setting an item of an OrderedDict, finding the first one and taking it out again takes 1400
# instructions, those of a dictionary 500; here they are 150.
cdef inline LinkedLine new_line():
    return LinkedLine()

cdef inline object first_of(LinkedLine line):
    return line.first
