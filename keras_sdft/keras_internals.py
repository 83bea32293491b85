"""The only file that touches private parts of Keras and TensorFlow.

Each function says what it relies on and in which versions it was seen, and
what happens where it is missing. KerasCV's private parts are in
`models/keras_cv_parts.py`. Imports nothing of this library.
"""

from __future__ import annotations
