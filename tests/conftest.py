"""Fixtures of all tests."""

from support.broker import broker

__all__ = ["broker"]
