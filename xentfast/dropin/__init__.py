"""The losses of other libraries, under their names and with their results, on the kernels here.

One module for each library, none of which it imports: `xentfast.dropin.keras`, `.scipy` and
`.sklearn` need NumPy alone.
"""
