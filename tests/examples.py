"""The worked examples of the three losses that people meet first: labels and predictions."""

BINARY_TRUE = [[1, 0], [1, 0], [0, 1]]
BINARY_PREDICTED = [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]

CATEGORICAL_TRUE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
CATEGORICAL_PREDICTED = [[0.9, 0.05, 0.05], [0.05, 0.89, 0.06], [0.05, 0.01, 0.94]]

SPARSE_TRUE = [1, 0, 2, 1, 2, 0]
SPARSE_PREDICTED = [
    [0.05, 0.9, 0.05],
    [0.89, 0.05, 0.06],
    [0.05, 0.01, 0.94],
    [0.1, 0.8, 0.1],
    [0.7, 0.2, 0.1],
    [0.08, 0.05, 0.87],
]
