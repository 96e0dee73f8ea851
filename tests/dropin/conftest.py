"""Keras is asked for its NumPy backend, before anything imports it."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "numpy")
