"""Stateful fake vendors on real sockets, for the demo, the tests and the benchmarks.

Belongs here: one file of HTTP behaviour and one of seeded data per vendor, and what all fake vendors share (server,
faults, request log, rate windows). Does not belong here: anything imported from the rest of the package. The sandbox
is held to the vendors' documentation alone, so that it cannot share a mistake with the code it tests.
"""
