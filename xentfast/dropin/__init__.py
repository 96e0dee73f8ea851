"""The losses of other libraries, under their names and with their results, on the kernels here.

One module for each library. `xentfast.dropin.keras`, `.scipy` and `.sklearn` import none of them
and need NumPy alone, though `.scipy` hands what it does not carry to SciPy where it is installed;
`.torch` works on tensors and hands to torch what it does not carry.
"""
