"""What the project must reach, as ratios to something measured in the same minute on the same machine.

Belongs here: one file per bar, each with a function `figures()`. Does not belong here: tests; nothing in the test suite
asserts a time. Run with `python -m benchmarks`, or `python -m benchmarks NAME`.
"""
