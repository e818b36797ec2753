"""All metadata is in setup.cfg; this stub is for tools that look for a setup.py."""

from setuptools import setup

setup()
