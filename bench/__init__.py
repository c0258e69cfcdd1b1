"""The benchmark suite: what is timed, how it is recorded and how it is judged.

`record`, `stats`, `baseline` and `gate` are pure (floats in, a verdict out) and import neither torch nor
`grok1`, so that reports and continuous integration can judge stored records on a machine with no accelerator.
"""
