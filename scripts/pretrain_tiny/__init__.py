"""Makes the embedded model again from nothing: data first, then training."""

import os as _os

# As the library does; here keras may be imported, and TensorFlow with it,
# before the library is.
_os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
_os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
