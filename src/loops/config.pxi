# Threads, instruction sets, what was built, and bfloat16 arrays of other libraries.

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid

if not xf_pool_prepare():
    raise MemoryError("no thread-local memory is left")


def set_num_threads(int n):
    """Use at most n threads in each call."""
    xf_threads_set(n)


def get_num_threads():
    """Return the most threads that a call of this thread uses."""
    return xf_threads()


def limit_threads(int n):
    """Use at most n threads in each call of this thread; return what was set. 0: not set."""
    return xf_threads_limit(n)


def built_isas():
    """Return the names of the instruction sets built, weakest first."""
    return tuple([xf_isa_name(i).decode() for i in range(xf_isa_count())])


def available_isas():
    """Return the names of those that run on this machine, weakest first."""
    return tuple([xf_isa_name(i).decode() for i in range(xf_isa_count()) if xf_isa_runs(i)])


def get_isa():
    """Return the name of the instruction set in use."""
    return xf_isa_name(xf_isa_chosen()).decode()


def set_isa(str name):
    """Use the instruction set of this name from now on."""
    cdef int i
    for i in range(xf_isa_count()):
        if xf_isa_name(i).decode() == name:
            if not xf_isa_runs(i):
                raise ValueError(f"instruction set {name!r} does not run on this machine")
            xf_isa_choose(i)
            return
    raise ValueError(f"instruction set must be one of {built_isas()}, got {name!r}")


cdef struct DLTensor:           # the beginning of a DLPack capsule's DLManagedTensor
    void *data
    int32_t device_type, device_id, ndim
    uint8_t code, bits
    uint16_t lanes


def dlpack_of_bits(capsule):
    """Make a capsule of bfloat16 one of uint16; return whether it was one."""
    cdef DLTensor *tensor
    if not PyCapsule_IsValid(capsule, "dltensor"):
        return False
    tensor = <DLTensor *> PyCapsule_GetPointer(capsule, "dltensor")
    if tensor.code != 4 or tensor.bits != 16:  # kDLBfloat
        return False
    tensor.code = 1             # kDLUInt
    return True


def version():
    """Return the package's version."""
    return XF_VERSION.decode()


def compiler():
    """Return the compiler that built this module."""
    return XF_COMPILER.decode().strip()  # clang ends with a space
