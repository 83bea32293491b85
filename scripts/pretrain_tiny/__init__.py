"""Makes the embedded model again from nothing: data first, then training."""
