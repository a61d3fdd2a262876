"""Fixtures and settings of all tests."""

from hypothesis import settings

from support.broker import broker

__all__ = ["broker"]

settings.register_profile("foglearn", deadline=None)  # how long an example takes says more of the machine than of the code
settings.load_profile("foglearn")
