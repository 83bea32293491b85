"""Fast paths of the networks' arithmetic, beside what they stand for.

Each module has a fast path and its reference implementation in plain
`keras.ops`, to which tests hold it. Which of them runs is decided in `gate`
alone. Must not know networks.
"""
