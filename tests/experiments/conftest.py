"""Fixtures for the tests of this folder."""

from tests.experiments.small import cache, whole

__all__ = ["cache", "whole"]
