"""The metrics: how alike two spaces of the same samples are, and how alike they would be by chance.

A family a file, what they share in `score`, the table of them in `table`, nulls in `nulls`, inner products of many
spaces in `kernels`. A metric is made of three functions. ``prepare(x, classes)`` computes once what depends on one
space; ``score(a, b)`` compares two prepared spaces; ``chance(a, b, score, permutations)`` sets the score beside its
nulls: its expectation when the samples of one side are shuffled uniformly, and when they are shuffled within classes.
Products are taken in the space's floating-point type, sums in float64.
"""
