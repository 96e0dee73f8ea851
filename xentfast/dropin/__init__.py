"""Drop-in replacements, one module per library: the library's names and behaviour, our kernels."""
