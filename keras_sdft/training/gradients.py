"""What is raised for gradients that are not finite, by every backend."""

NOT_FINITE = "The gradients became NaN or infinite"


def not_finite_error() -> ValueError:
    """Returns the error that ends a training before weights become NaN."""
    return ValueError(
        f"{NOT_FINITE}, so training stopped: the weights are those of the "
        "step before. Try a lower learning rate, or float32."
    )
