"""The measurements that the documentation quotes: ``make bench``, or ``python -m benchmarks --help``."""
