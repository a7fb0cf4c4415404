"""Stateful fake vendors on real sockets. Imports nothing of the rest of the package."""
